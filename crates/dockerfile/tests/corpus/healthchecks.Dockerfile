FROM base AS a
HEALTHCHECK --interval=1m30s --timeout=2s --start-period=1h --start-interval=500ms --retries=10 CMD ["curl", "-f", "http://x/"]
FROM a AS b
HEALTHCHECK NONE
FROM b
HEALTHCHECK CMD true || false
