FROM base AS a
RUN 1
FROM other AS a
RUN 2
FROM a
RUN 3
