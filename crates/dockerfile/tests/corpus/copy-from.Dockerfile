FROM base AS zero
FROM other:1 AS One
COPY --from=0 /a /a
FROM scratch
COPY --from=one /b /b
COPY --from=busybox:1.36 /bin/busybox /bin/
COPY --from=zero /c /d /e/
