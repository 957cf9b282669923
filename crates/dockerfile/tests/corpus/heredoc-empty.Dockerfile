FROM base
COPY <<EOF /empty
EOF
RUN <<EOF
EOF
