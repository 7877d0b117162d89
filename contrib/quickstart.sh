#!/bin/sh
# Starts the TPM of examples/quickstart.toml in the background, unless it runs already,
# sends it one command, and prints its addresses and files.
#
#   contrib/quickstart.sh [start|stop]
set -eu
cd "$(dirname "$0")/.."

profile=examples/quickstart.toml
dir=examples/quickstart-state
pidfile=bin/quickstart.pid
log=bin/quickstart.log
# port KEY prints the TCP port that a key of the profile has.
port() { sed -n "s/^$1 *= *\"tcp:127.0.0.1:\([0-9]*\)\".*/\1/p" "$profile"; }
data=$(port server)
ctrl=$(port listen)

# running PID succeeds while the process runs, not after it has ended, even if its parent has not
# waited for it.
running() { grep -q '^State:[^Z]*$' "/proc/$1/status" 2>/dev/null; }

# alive succeeds while the quickstart TPM runs. After a restart of the machine another program may
# have the number of the process.
alive() { [ -s "$pidfile" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$pidfile")/cmdline" | grep -qxF "bin/swtpm run $profile "; } 2>/dev/null

# listener PORT prints the inode of the socket that listens on the port of 127.0.0.1, if there is one.
listener() {
	awk -v port="$(printf ':%04X' "$1")" '$4 == "0A" && $2 ~ "^(0100007F|0*FFFF00000100007F|0*)" port "$" { print $10; exit }' \
		/proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# unused PORT... ends the script if one of the TCP ports is in use: another program would answer.
unused() {
	for p in "$@"; do
		inode=$(listener "$p") || true
		[ -n "$inode" ] || continue
		fd=$(find /proc/[0-9]*/fd -maxdepth 1 -lname "socket:\[$inode\]" 2>/dev/null | head -n 1) || true
		pid=${fd#/proc/}
		pid=${pid%%/*}
		if [ -n "$pid" ]; then
			echo "port $p is in use by $(cat "/proc/$pid/comm"), process $pid: stop it with kill $pid, or change the ports in $profile" >&2
		else
			echo "port $p is in use by another user's process: find it as root with ss -ltnp 'sport = :$p' and stop it, or change the ports in $profile" >&2
		fi
		exit 1
	done
}

stop() {
	if ! alive; then
		echo "The quickstart TPM does not run."
		return
	fi
	kill "$(cat "$pidfile")"
	tries=0
	while alive; do # the process waits up to a minute for a running command
		tries=$((tries + 1))
		if [ $tries -ge 700 ]; then
			echo "The quickstart TPM, process $(cat "$pidfile"), does not end." >&2
			exit 1
		fi
		sleep 0.1
	done
	echo "The quickstart TPM is off. Its state stays in $dir."
}

# failed ends the script with the TPM's log.
failed() {
	echo "The TPM did not come up; this is its log, $log:" >&2
	cat "$log" >&2
	exit 1
}

start() {
	if ! alive; then
		bin/swtpm check "$profile" >/dev/null
		unused "$data" "$ctrl"
		setsid bin/swtpm run "$profile" >"$log" 2>&1 </dev/null &
		echo $! >"$pidfile"
	fi
	tries=0
	until bin/swtpm-ioctl --tcp 127.0.0.1:"$ctrl" -e >/dev/null 2>&1; do
		tries=$((tries + 1))
		if [ $tries -ge 100 ] || ! running "$(cat "$pidfile")"; then
			failed
		fi
		sleep 0.1
	done
	running "$(cat "$pidfile")" || failed # another program has answered
	random=$(TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=$data tpm2_getrandom --hex 16)
	cat <<EOF

A TPM 2.0 is running, and just answered with 16 random bytes: $random

  commands   127.0.0.1:$data   for tpm2-tools, see below
  control    127.0.0.1:$ctrl   for swtpm-ioctl
  state      $dir   it survives restarts
  profile    $profile   process $(cat "$pidfile"), log $log

Next:

  export TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=$data
  tpm2_pcrread sha256:0,10
  tpm2_createprimary -c primary.ctx
  tpm2_flushcontext -t             # after error 0x902: frees the memory for objects
  bin/swtpm show $profile        # every key of the profile
  ./run stop                       # stop the TPM; its state stays
EOF
}

case ${1:-start} in
start) start ;;
stop) stop ;;
*)
	echo "usage: $0 [start|stop]" >&2
	exit 2
	;;
esac
