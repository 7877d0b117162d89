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
data=2321
ctrl=2322

# alive succeeds while the process runs, not after it has ended, even if its parent has not
# waited for it.
alive() { [ -s "$pidfile" ] && grep -q '^State:[^Z]*$' "/proc/$(cat "$pidfile")/status" 2>/dev/null; }

stop() {
	if ! alive; then
		echo "The quickstart TPM does not run."
		return
	fi
	bin/swtpm-ioctl --tcp 127.0.0.1:$ctrl -s
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

start() {
	if ! alive; then
		bin/swtpm check "$profile" >/dev/null
		setsid bin/swtpm run "$profile" >"$log" 2>&1 </dev/null &
		echo $! >"$pidfile"
	fi
	tries=0
	until bin/swtpm-ioctl --tcp 127.0.0.1:$ctrl -e >/dev/null 2>&1; do
		tries=$((tries + 1))
		if [ $tries -ge 100 ] || ! alive; then
			echo "The TPM did not come up; this is its log, $log:" >&2
			cat "$log" >&2
			exit 1
		fi
		sleep 0.1
	done
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
