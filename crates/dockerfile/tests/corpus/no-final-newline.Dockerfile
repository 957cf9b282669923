FROM base
RUN last