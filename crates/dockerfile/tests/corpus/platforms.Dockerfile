FROM --platform=linux/arm64 base AS a
RUN x
FROM --platform=${TARGETPLATFORM} base
COPY --from=a /x /
