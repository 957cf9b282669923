FROM scratch AS empty
FROM base
COPY --from=empty / /x
