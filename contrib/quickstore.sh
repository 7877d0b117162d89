#!/bin/sh
# Starts etcd, a broker and a TPM 2.0 on this machine, to try a cluster store.
#
#   contrib/quickstore.sh start    data channel on tcp port 2331, control channel on 2332
#   contrib/quickstore.sh stop
set -eu
dir=${QUICKSTORE:-build/quickstore}
bin=${BIN:-bin}

stop() {
	for p in tpm broker etcd; do
		[ ! -e "$dir/$p.pid" ] || kill "$(cat "$dir/$p.pid")" 2>/dev/null || true
		rm -f "$dir/$p.pid"
	done
}

case ${1:-start} in
stop) stop && exit 0 ;;
start) ;;
*) echo "usage: $0 start|stop" >&2 && exit 2 ;;
esac

command -v etcd >/dev/null || { echo "etcd is missing: apt-get install etcd-server" >&2; exit 1; }
stop
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
chmod 0700 "$dir"
url=http://127.0.0.1:2379
etcd --data-dir "$dir/etcd" --listen-client-urls "$url" --advertise-client-urls "$url" >"$dir/etcd.log" 2>&1 </dev/null &
echo $! >"$dir/etcd.pid"
cat >"$dir/store.toml" <<X
endpoints = ["$url"]
socket    = "$dir/socket"
mark      = "$dir/mark"
[[allow]]
users  = ["$(id -u)"]
states = ["*"]
X
# running NAME PID ends the script if a program ended, e.g. because its port is in use.
running() {
	kill -0 "$2" 2>/dev/null || { echo "$1 ended; see $dir/$1.log:" >&2; tail -n 3 "$dir/$1.log" >&2; stop; exit 1; }
}
sleep 0.3
running etcd "$(cat "$dir/etcd.pid")"
for _ in $(seq 100); do
	"$bin/swtpm-store" --config "$dir/store.toml" --check >/dev/null 2>&1 && break
	sleep 0.1
done
"$bin/swtpm-store" --config "$dir/store.toml" >"$dir/broker.log" 2>&1 </dev/null &
echo $! >"$dir/broker.pid"
for _ in $(seq 50); do [ -S "$dir/socket" ] && break; sleep 0.1; done
export SWTPM_STORE_SOCKET="$dir/socket"
[ -s "$dir/key" ] || (umask 077 && od -An -tx1 -N16 /dev/urandom | tr -d ' \n' >"$dir/key")
"$bin/swtpm_setup" --tpm2 --tpmstate store://quick --keyfile "$dir/key" --not-overwrite >/dev/null
"$bin/swtpm" socket --tpm2 --tpmstate backend-uri=store://quick --key file="$dir/key" --flags not-need-init,startup-clear \
	--server type=tcp,port=2331 --ctrl type=tcp,port=2332 >"$dir/tpm.log" 2>&1 </dev/null &
echo $! >"$dir/tpm.pid"
sleep 0.3
running broker "$(cat "$dir/broker.pid")"
running tpm "$(cat "$dir/tpm.pid")"
echo "A TPM with its state in etcd answers on port 2331: TPM2TOOLS_TCTI=swtpm:port=2331 tpm2_getrandom --hex 8"
