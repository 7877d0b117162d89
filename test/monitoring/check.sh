#!/bin/sh
# Checks what contrib/prometheus has, and the text of swtpm metrics, with Prometheus's own
# tool from Debian's package. The package is unpacked in the directory $1, not installed.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
promtool=$1/root/usr/bin/promtool
if ! [ -x "$promtool" ]; then
	(cd "$1" && rm -f prometheus_*.deb && apt-get -qq -o APT::Sandbox::User=root download prometheus)
	dpkg-deb -x "$1"/prometheus_*.deb "$1/root"
fi
"$promtool" check rules contrib/prometheus/swtpm.rules.yml
cp contrib/prometheus/*.yml "$1"
"$promtool" check config "$1/scrape.yml"
go test -count=1 -run '^TestDashboard$|^TestMetrics' ./cmd/swtpm-admin/fleet
