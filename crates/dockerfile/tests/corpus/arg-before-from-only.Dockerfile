ARG A=1
ARG B=${A}2
ARG C
FROM base${B#12}:$B
RUN echo $A
