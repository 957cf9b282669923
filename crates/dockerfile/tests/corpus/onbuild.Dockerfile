FROM base AS parent
ONBUILD COPY . /app
ONBUILD RUN make /app
ONBUILD ENV A=1
onbuild cmd ["x"]
FROM parent
RUN own
