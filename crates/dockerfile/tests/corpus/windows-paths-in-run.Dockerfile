FROM base
RUN echo C:\\dir\\file
ENV P=C:\\x
COPY a\ b /
