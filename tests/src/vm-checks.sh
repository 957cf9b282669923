# What has to hold on a machine with nothing but cgroup v2. Runs as the guest's first process; each check prints one line.
export PATH=/bin HOME=/root
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs run /run
ip link set lo up
S=unix:///run/c.sock
c() { cais -H $S "$@"; }

# check NAME COMMAND...: the command's exit code decides; its last line of output explains.
check() {
    name=$1
    shift
    if said=$("$@" 2>&1); then
        echo "$RESULT$name ok"
    else
        echo "$RESULT$name FAILED $(echo "$said" | tail -n 3 | tr '\n' ' ')"
    fi
}
# is WANTED COMMAND...: the command prints exactly this.
is() {
    wanted=$1
    shift
    got=$("$@" 2>&1)
    [ "$got" = "$wanted" ] || { echo "wanted '$wanted', got '$got'"; return 1; }
}
# code WANTED COMMAND...
code() {
    wanted=$1
    shift
    got_text=$("$@" 2>&1)
    got=$?
    [ $got = "$wanted" ] || { echo "wanted exit code $wanted, got $got: $got_text"; return 1; }
}
up() {
    cais engine --host $S --data-root /var/data --exec-root /run/exec > /engine.log 2>&1 &
    engine=$!
    for i in $(seq 300); do
        cais -H $S version > /dev/null 2>&1 && return 0
        kill -0 $engine 2> /dev/null || break
        sleep 0.1
    done
    tail -n 5 /engine.log
    return 1
}
page() {
    for i in $(seq 50); do
        [ "$(wget -qO- "$1" 2> /dev/null)" = page ] && return 0
        sleep 0.1
    done
    echo "no page at $1"
    return 1
}

up > /up.out 2>&1
check engine-starts [ -S /run/c.sock ]
check says-cgroup-v2 is 2 c info --format '{{.CgroupVersion}}'
check import c import -c 'CMD ["sh"]' /busybox.tar quay/busybox
check runs is hello c run --rm quay/busybox echo hello
check exit-code code 7 c run --rm quay/busybox sh -c 'exit 7'
check no-such-command code 127 c run --rm quay/busybox /no/such
check own-cgroup-namespace is 0::/ c run --rm quay/busybox cat /proc/self/cgroup
check cpu-limit is '50000 100000' c run --rm --cpus 0.5 quay/busybox cat /sys/fs/cgroup/cpu.max
check memory-limit is 33554432 c run --rm -m 32m quay/busybox cat /sys/fs/cgroup/memory.max
check swap-limit is 0 c run --rm -m 32m --memory-swap 32m quay/busybox cat /sys/fs/cgroup/memory.swap.max
check pids-limit is 8 c run --rm --pids-limit 8 quay/busybox cat /sys/fs/cgroup/pids.max
check cpuset is 0 c run --rm --cpuset-cpus 0 quay/busybox cat /sys/fs/cgroup/cpuset.cpus
check cgroup-is-read-only code 1 c run --rm quay/busybox mkdir /sys/fs/cgroup/mine
check memory-holds code 137 c run --name hog -m 24m --memory-swap 24m quay/busybox sh -c 'tail /dev/zero'
check oom-is-reported is 'true 137' c inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' hog
check no-devices code 1 c run --rm quay/busybox sh -c 'mknod /m b 7 0 && cat /m'
check detached c run -d --name web -p 8080:80 quay/busybox sh -c 'mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w'
check published-port page http://127.0.0.1:8080/
check exec is inside c exec web echo inside
check exec-code code 6 c exec web sh -c 'exit 6'
check update c update -m 64m --memory-swap 64m web
check update-holds is 67108864 c exec web cat /sys/fs/cgroup/memory.max
check stats sh -c "cais -H $S stats --no-stream --format '{{.PIDs}}' web | grep -qx 1"
check pause c pause web
check paused is paused c inspect -f '{{.State.Status}}' web
check unpause c unpause web
kill -9 $engine
wait $engine 2> /dev/null
check survives-the-engine page http://127.0.0.1:8080/
up > /up.out 2>&1
check engine-comes-back is web c ps --format '{{.Names}}'
check stop c stop -t 0 web
check exit-code-after-restart is 137 c inspect -f '{{.State.ExitCode}}' web
check remove c rm web hog
check nothing-left sh -c '! find /sys/fs/cgroup -mindepth 3 -type d | grep -E "[0-9a-f]{64}"'
[ -s /engine.log ] && tail -n 20 /engine.log
echo "$LAST"
sync
poweroff -f
