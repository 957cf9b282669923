FROM base
WORKDIR /w
COPY a b
COPY a b c/
COPY ["a b", "c", "/with space/"]
COPY . .
COPY ./ ./x
COPY a* b?c [d-f] /p/
COPY \[x /lit
COPY --chown=1:2 --chmod=0644 a /
COPY --chmod=u=rwX,go=rX dir /dir
COPY --exclude=*.log --exclude=**/tmp . /e/
COPY --parents src/./a/b/*.c src2/d /dst/
COPY --link --chmod=755 x /y
