FROM base AS deps
FROM base
WORKDIR /app
RUN --mount=type=bind,source=go.sum,target=go.sum --mount=type=cache,target=/root/.cache,sharing=locked,id=c,mode=0700,uid=1000,gid=1000 a
RUN --mount=from=deps,source=/lib,target=/lib2 b
RUN --mount=type=bind,from=busybox,target=/bb,rw c
RUN --mount=type=tmpfs,target=/tmp,size=100m d
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc,mode=0400,required e
RUN --mount=type=secret,id=tok,env=TOKEN f
RUN --mount=type=ssh g
RUN --mount=type=ssh,id=github,target=/agent,required=true h
RUN --mount=type=cache,dst=cache-dir,from=deps,src=/seed,readonly i
