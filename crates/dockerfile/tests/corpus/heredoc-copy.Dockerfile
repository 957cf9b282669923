FROM base
ENV NAME=world
COPY <<EOF /hello.txt
hello $NAME \$NAME "quoted" 'single'
EOF
COPY <<'EOF' /raw.txt
hello $NAME
EOF
COPY --chmod=755 <<one <<-two local /dir/
1
one
	2
two
ADD <<EOF /add
x
EOF
