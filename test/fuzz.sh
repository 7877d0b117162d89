#!/bin/sh
# sh test/fuzz.sh TIME PACKAGE... runs each fuzz target of the packages for TIME.
# On a busy machine, the end of TIME can interrupt "go test" itself: it then reports
# "context deadline exceeded" and no failing input. Only that is repeated, at most twice.
set -eu
time=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for pkg; do
	targets=$("${GO:-go}" test -list '^Fuzz' "$pkg")
	for f in $(echo "$targets" | grep '^Fuzz'); do
		echo "fuzz $pkg $f"
		for try in 1 2 3; do
			"${GO:-go}" test -run '^Fuzz' -fuzz "^$f\$" -fuzztime "$time" -fuzzminimizetime 10x "$pkg" >"$log" 2>&1 && break
			if [ "$try" = 3 ] || ! grep -q 'context deadline exceeded' "$log" || grep -q 'Failing input' "$log"; then
				cat "$log"
				exit 1
			fi
			echo "interrupted at the end of $time: once more"
		done
		grep '^ok' "$log"
	done
done
