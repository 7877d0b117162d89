#!/bin/sh
# Makes the root file system of a small Debian with systemd in the directory $1, of
# this machine's own release, unless it exists already. Nothing is installed on
# the machine. Debian's own packages of swtpm are files in /swtpm, and what they depend
# on is installed. $2 names further packages, with commas.
set -eu
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 DIRECTORY [PACKAGES]" >&2; exit 2; }
packages=systemd,systemd-sysv,dbus,libtpms0${2:+,$2}
theirs=adduser,gnutls-bin,libglib2.0-0,libjson-glib-1.0-0,libtasn1-6,openssl
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
recipe="2 $release $packages,$theirs"
[ "$(cat "$1/recipe" 2>/dev/null)" != "$recipe" ] || exit 0

mkdir -p "$1"
for try in 1 2 3; do
	rm -rf --one-file-system "$1/recipe" "$1/root" # an mmdebstrap that was killed leaves /dev and /sys mounted
	if timeout 600 mmdebstrap --quiet --variant=minbase --include=$packages,$theirs \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
		--customize-hook='mkdir "$1/swtpm" && chroot "$1" sh -c "cd /swtpm && apt-get -qq -o APT::Sandbox::User=root download swtpm swtpm-libs swtpm-tools"' \
		"$release" "$1/root" "$mirror"; then
		echo "$recipe" >"$1/recipe"
		exit 0
	fi
	echo "$0: try $try of 3 failed" >&2
done
exit 1
