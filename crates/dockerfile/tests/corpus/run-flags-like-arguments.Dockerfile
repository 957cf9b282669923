FROM base
RUN --mount=type=tmpfs,target=/t ls --all --color
RUN cmd --mount=x
RUN -- --x
