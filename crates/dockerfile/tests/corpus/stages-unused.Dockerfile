FROM missing AS never
RUN x
FROM base AS used
RUN y
FROM used
RUN z
