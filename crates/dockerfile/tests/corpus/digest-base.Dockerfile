FROM base@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
RUN x
FROM localhost:5000/a/b:tag AS r
