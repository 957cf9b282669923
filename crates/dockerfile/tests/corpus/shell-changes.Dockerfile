FROM base
RUN a
SHELL ["/bin/bash","-c"]
RUN b
CMD c
ENTRYPOINT d
FROM base
RUN e
