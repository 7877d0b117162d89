#!/bin/sh
# Makes the root file system of a Debian 13 in the directory $1, with the packages that
# `contrib/deps.sh test` wants there, unless it exists already. Nothing is installed on
# the machine.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=$(sh "$here/../../contrib/deps.sh" --list test | tr ' ' ,)
recipe="1 trixie $packages"
[ "$(cat "$1/recipe" 2>/dev/null)" != "$recipe" ] || exit 0

mkdir -p "$1"
for try in 1 2 3; do
	rm -rf --one-file-system "$1/recipe" "$1/root" # an mmdebstrap that was killed leaves /dev and /sys mounted
	if timeout 900 mmdebstrap --quiet --variant=minbase --include="$packages" \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
		trixie "$1/root" "$mirror"; then
		echo "$recipe" >"$1/recipe"
		exit 0
	fi
	echo "$0: try $try of 3 failed" >&2
done
exit 1
