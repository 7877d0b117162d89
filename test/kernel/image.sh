#!/bin/sh
# Makes the root file system of a small Debian with systemd, udev and tpm2-tools, of
# this machine's own release, as the initial file system $1/root.cpio of a virtual
# machine, unless it exists already. Nothing is installed on the machine.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
packages=systemd,systemd-sysv,udev,dbus,kmod,libtpms0,libseccomp2,tpm2-tools,libtss2-tcti-device0,apparmor,policycoreutils,selinux-utils
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
recipe=$({ cat "$0"; echo "$release"; } | sha256sum | cut -d' ' -f1)
mkdir -p "$1"
[ "$(cat "$1/recipe" 2>/dev/null)" != "$recipe" ] || exit 0

for try in 1 2 3; do
	rm -rf --one-file-system "$1/recipe" "$1/root" # an mmdebstrap that was killed leaves /dev and /sys mounted
	if timeout 600 mmdebstrap --quiet --variant=minbase --include=$packages \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
		"$release" "$1/root" "$mirror"; then
		# Files that a machine which lives for a minute does not need.
		(cd "$1/root" && rm -rf var/cache/apt var/lib/apt/lists boot \
			usr/share/doc usr/share/man usr/share/locale usr/share/info usr/lib/udev/hwdb.d usr/lib/*/gconv)
		(cd "$1/root" && find . -print0 | cpio --quiet -0 -o -H newc) >"$1/root.new"
		rm -rf --one-file-system "$1/root"
		mv "$1/root.new" "$1/root.cpio"
		echo "$recipe" >"$1/recipe"
		exit 0
	fi
	echo "$0: try $try of 3 failed" >&2
done
exit 1
