#!/bin/sh
# Checks the units that `make install` has written to the directory $1: systemd must find
# no mistake in them, and their exposure must be within the limits below. systemd need not
# run.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DESTDIR" >&2; exit 2; }
command -v systemd-analyze >/dev/null || {
	echo "$0: there is no systemd-analyze; install the package systemd" >&2
	exit 1
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$1"/usr/lib/systemd/system/swtpm* "$dir"
sed -i "s,^ExecStart=/usr/,ExecStart=$1/usr/," "$dir/swtpm@.service" "$dir/swtpm-manufacture@.service" "$dir/swtpm-metrics.service" "$dir/swtpm-store.service"
export SYSTEMD_UNIT_PATH="$dir:" SYSTEMD_EMOJI=0

echo "systemd-analyze verify"
out=$(systemd-analyze --man=no verify "$dir/swtpm@.service" "$dir/swtpm-manufacture@.service" "$dir/swtpm@.socket" "$dir/swtpm-data@.socket" \
	"$dir/swtpm.target" "$dir/swtpm.slice" "$dir/swtpm-metrics.service" "$dir/swtpm-metrics.socket" \
	"$dir/swtpm-store.service" "$dir/swtpm-store.socket" 2>&1) || {
	echo "$out" >&2
	exit 1
}
# Other units of this machine, which are read too, may have mistakes of their own.
if echo "$out" | grep swtpm >&2; then exit 1; fi

# exposed UNIT MOST: the exposure in tenths, of a scale to 10.0.
exposed() {
	out=$(systemd-analyze --no-pager --offline=yes --threshold="$2" security "$1") || {
		echo "$out" >&2
		exit 1
	}
	echo "$out" | sed -n 's/^[^O]*Overall/Overall/p'
}
exposed "$dir/swtpm@.service" 3
echo "swtpm-manufacture@:"
exposed "$dir/swtpm-manufacture@.service" 10
echo "swtpm-metrics:"
exposed "$dir/swtpm-metrics.service" 15
echo "swtpm-store:"
exposed "$dir/swtpm-store.service" 16

# with DESTDIR CONF MOST: the same with an installed drop-in.
with() {
	rm -rf "$dir/swtpm@.service.d"
	mkdir "$dir/swtpm@.service.d"
	cp "$1/usr/share/doc/swtpm-go/$2" "$dir/swtpm@.service.d"
	echo "with $2:"
	exposed "$dir/swtpm@.service" "$3"
}
with "$1" tcp.conf 10
with "$1" container.conf 10
with "$1" cuse.conf 10
