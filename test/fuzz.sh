#!/bin/sh
# sh test/fuzz.sh TIME PACKAGE... runs each fuzz target of the packages for TIME, after its seeds.
# The test binary of a package is linked once for all its targets.
# On a busy machine, the end of TIME can interrupt "go test" itself: it then reports
# "context deadline exceeded" and no failing input. Only that is repeated, at most twice.
set -eu
time=$1
shift
go=${GO:-go}
root=$(pwd)
module=$("$go" list -m)
cache=$("$go" env GOCACHE)/fuzz
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for pkg; do
	dir=$root/${pkg#"$module"/}
	grep -qs '^func Fuzz' "$dir"/*_test.go || continue
	"$go" test -c -fuzz . -o "$tmp/test" "$pkg"
	for f in $(cd "$dir" && "$tmp/test" -test.list '^Fuzz'); do
		echo "fuzz $pkg $f"
		for try in 1 2 3; do
			(cd "$dir" && "$tmp/test" -test.run "^$f\$" -test.fuzz "^$f\$" -test.fuzztime "$time" -test.fuzzminimizetime 10x \
				-test.fuzzcachedir "$cache/$pkg") >"$tmp/log" 2>&1 && break
			if [ "$try" = 3 ] || ! grep -q 'context deadline exceeded' "$tmp/log" || grep -q 'Failing input' "$tmp/log"; then
				cat "$tmp/log"
				exit 1
			fi
			echo "interrupted at the end of $time: once more"
		done
		tail -n 2 "$tmp/log" | head -n 1
	done
done
