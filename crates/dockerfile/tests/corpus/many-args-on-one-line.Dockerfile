FROM base
ARG A=1 B="2 3" C
ENV D=$A E=$B F=$C
RUN env
