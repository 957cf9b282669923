# escape=`

FROM base
WORKDIR C:\\data
RUN dir `
    /b
ENV A="x`"y" B=C:\\Windows
COPY a `
     b /
