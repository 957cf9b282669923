FROM base AS a.b-c_1
FROM a.b-c_1 AS second
FROM base AS third
COPY --from=second /x /
