FROM base
RUN a \
  && b

ENV X=1
COPY <<EOF /f
line
EOF
