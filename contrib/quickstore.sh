#!/bin/sh
# Starts etcd, a broker and a TPM 2.0 on this machine, to try a cluster store.
#
#   contrib/quickstore.sh start    data channel on tcp port 2331, control channel on 2332
#   contrib/quickstore.sh stop
#
# Variables: QUICKSTORE, the directory of the data; BIN, the directory of the programs; PORT, the
# port of the data channel, whose next port is the control channel; ETCD_PORT, etcd's port for
# clients, whose next port is for its peers.
set -eu
cd "$(dirname "$0")/.."
dir=${QUICKSTORE:-build/quickstore}
bin=${BIN:-bin}
port=${PORT:-2331}
etcd=${ETCD_PORT:-2379}

# stop_one NAME PROGRAM stops a program and waits until it has ended; after ten seconds it is killed.
# After a restart of the machine another program may have the number of the process.
stop_one() {
	[ -e "$dir/$1.pid" ] || return 0
	pid=$(cat "$dir/$1.pid")
	if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] && kill "$pid" 2>/dev/null; then
		for _ in $(seq 100); do
			grep -q . "/proc/$pid/cmdline" 2>/dev/null || break # empty: ended, but its parent has not waited yet
			sleep 0.1
		done
		kill -9 "$pid" 2>/dev/null || true
	fi
	rm -f "$dir/$1.pid"
}

# stop stops the TPM before the broker that it stores with, and the broker before etcd.
stop() {
	stop_one tpm swtpm
	stop_one broker swtpm-store
	stop_one etcd etcd
}

case ${1:-start} in
stop) stop && echo "TPM, broker and etcd are stopped; their data are in $dir" && exit 0 ;;
start) ;;
*) echo "usage: $0 start|stop" >&2 && exit 2 ;;
esac

command -v etcd >/dev/null || { echo "etcd is missing: apt-get install etcd-server" >&2; exit 1; }
for p in swtpm-store swtpm_setup swtpm; do
	[ -x "$bin/$p" ] || { echo "$bin/$p is missing; run make build first" >&2; exit 1; }
done
stop
# unused PORT... ends the script if one of the TCP ports is in use: another etcd must not get the TPM's state.
unused() {
	for p in "$@"; do
		h=$(printf ':%04X$' "$p")
		if awk '$4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q "$h"; then
			case $p in
			"$etcd" | $((etcd + 1))) echo "port $p is in use: systemctl stop etcd, or ETCD_PORT=$((etcd + 100)) $0 start" >&2 ;;
			*) echo "port $p is in use: PORT=$((port + 100)) $0 start" >&2 ;;
			esac
			exit 1
		fi
	done
}
unused "$etcd" $((etcd + 1)) "$port" $((port + 1))
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
chmod 0700 "$dir"
trap stop EXIT
url=http://127.0.0.1:$etcd
peer=http://127.0.0.1:$((etcd + 1))
etcd --data-dir "$dir/etcd" --listen-client-urls "$url" --advertise-client-urls "$url" --listen-peer-urls "$peer" \
	--initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" >"$dir/etcd.log" 2>&1 </dev/null &
echo $! >"$dir/etcd.pid"
cat >"$dir/store.toml" <<Y
endpoints = ["$url"]
socket    = "$dir/socket"
mark      = "$dir/mark"
[[allow]]
users  = ["$(id -u)"]
states = ["*"]
Y
# running NAME ends the script if a program has ended, for example because its port is in use.
running() {
	kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null || { echo "$1 ended; see $dir/$1.log:" >&2; tail -n 3 "$dir/$1.log" >&2; exit 1; }
}
sleep 0.3
for _ in $(seq 100); do
	running etcd
	"$bin/swtpm-store" --config "$dir/store.toml" --check >/dev/null 2>&1 && break
	sleep 0.1
done
rm -f "$dir/socket"
RUNTIME_DIRECTORY="$dir" "$bin/swtpm-store" --config "$dir/store.toml" >"$dir/broker.log" 2>&1 </dev/null &
echo $! >"$dir/broker.pid"
for _ in $(seq 50); do [ -S "$dir/socket" ] && break; sleep 0.1; done
running broker
export SWTPM_STORE_SOCKET="$dir/socket"
[ -s "$dir/key" ] || (umask 077 && od -An -tx1 -N16 /dev/urandom | tr -d ' \n' >"$dir/key")
"$bin/swtpm_setup" --tpm2 --tpmstate store://quick --keyfile "$dir/key" --not-overwrite >/dev/null
"$bin/swtpm" socket --tpm2 --tpmstate backend-uri=store://quick --key file="$dir/key" --flags not-need-init,startup-clear \
	--server type=tcp,port="$port" --ctrl type=tcp,port=$((port + 1)) >"$dir/tpm.log" 2>&1 </dev/null &
echo $! >"$dir/tpm.pid"
sleep 0.5
for p in etcd broker tpm; do running "$p"; done
trap - EXIT
echo "A TPM with its state in etcd answers on port $port: TPM2TOOLS_TCTI=swtpm:port=$port tpm2_getrandom --hex 8"
echo "For swtpm state, swtpm list and swtpm doctor: export SWTPM_STORE_SOCKET=$dir/socket"
