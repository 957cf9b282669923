FROM base
RUN <<EOF
set -e
apt-get update
  indented
# kept: no comment here
EOF
RUN <<-EOF
	tabs
		go
	EOF
RUN <<"EOF"
$not expanded
EOF
RUN python3 <<EOF
print("hi")
EOF
RUN <<'PY'
#!/usr/bin/env python3
print(1)
PY
RUN cat <<A > /a && cat <<B > /b
one
A
two
B
