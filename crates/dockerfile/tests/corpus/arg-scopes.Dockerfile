ARG BASE=base
ARG TAG=1
FROM $BASE:$TAG AS one
ARG TAG
ARG X=x Y=$X Z
RUN echo $TAG $X $Y $Z
ENV X=env
RUN echo $X
FROM one AS two
RUN echo $X $TAG
FROM base
ARG TAG=own
RUN echo $TAG
