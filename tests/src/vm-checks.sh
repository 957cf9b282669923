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
# What the kernel of the building machine lacks: IPv6 is looked at, too, since the kernel is an older one.
bridge=$(ls /sys/class/net | grep '^cais-')
check network-ipv6 c network create --ipv6 six
check run-ipv6 c run -d --name page6 --network six -p 8086:80 quay/busybox sh -c 'mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w'
check published-ipv6 page http://[::1]:8086/
for mode in l2 l3 l3s; do
    check ipvlan-$mode-network c network create -d ipvlan -o parent=$bridge -o ipvlan_mode=$mode --subnet 10.50.0.0/24 ipv
    check ipvlan-$mode-run c run -d --name ipv-a --network ipv quay/busybox sleep 1000
    check ipvlan-$mode-reaches c run --rm --network ipv quay/busybox ping -c 1 -W 10 ipv-a
    check ipvlan-$mode-other-mode code 1 c network create -d ipvlan -o parent=$bridge -o ipvlan_mode=l$([ $mode = l2 ] && echo 3 || echo 2) --subnet 10.51.0.0/24 ipw
    check ipvlan-$mode-remove c rm -f ipv-a
    check ipvlan-$mode-gone c network rm ipv
done
check vlan-network c network create -d macvlan -o parent=$bridge.20 --subnet 10.52.0.0/24 vlan
check vlan-is-made grep -q 'VID: 20' /proc/net/vlan/$bridge.20
check vlan-run c run -d --name vlan-a --network vlan quay/busybox sleep 1000
check vlan-reaches c run --rm --network vlan quay/busybox ping -c 1 -W 10 vlan-a
check vlan-remove c rm -f vlan-a
check vlan-gone c network rm vlan
check vlan-is-gone sh -c "! [ -e /sys/class/net/$bridge.20 ]"
check sctp-run c run -d --name assoc -p 9000:9000/sctp quay/busybox sleep 1000
check sctp-port is 0.0.0.0:9000 sh -c "cais -H $S port assoc 9000/sctp | head -n 1"
check sctp-taken sh -c "cais -H $S run --rm -p 9000:9000/sctp quay/busybox true 2>&1 | grep -q 'allocated to container assoc'"
check remove-networked c rm -f page6 assoc
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
