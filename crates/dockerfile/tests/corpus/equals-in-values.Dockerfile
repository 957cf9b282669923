FROM base
ENV OPTS="-Da=b -Dc=d" URL=http://h/?a=b&c=d
LABEL k=v=w
ARG X=a=b
