FROM base
RUN cat <file
RUN echo "<<EOF"
RUN [ 1 -lt 2 ]
RUN cat <<<word
