FROM base
RUN a \
