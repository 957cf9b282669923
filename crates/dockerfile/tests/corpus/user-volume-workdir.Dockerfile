FROM base
WORKDIR rel
WORKDIR /abs
WORKDIR a/../b/./c
WORKDIR ../d
USER app
WORKDIR /home/app
VOLUME /v1 /v2
VOLUME ["/v 3"]
USER 1000:www
RUN id
