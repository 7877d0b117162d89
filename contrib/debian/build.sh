#!/bin/sh
# Makes the Debian package $2 of what `make install PREFIX=/usr` has put into the
# directory $1. The version is $3.
set -eu
[ $# -eq 3 ] || { echo "usage: $0 DIRECTORY PACKAGE VERSION" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$1" && pwd)
doc=$root/usr/share/doc/swtpm-go

mkdir -p "$doc" "$root/DEBIAN"
install -m 0644 "$here/../../LICENSE" "$doc/copyright"
gzip -9nc "$here/../../CHANGELOG.md" >"$doc/changelog.gz"
chmod 0644 "$doc/changelog.gz"
find "$root/usr/share/man" -type f ! -name '*.gz' -exec gzip -9n {} +
find "$root/usr/share/man" -type l | while read -r link; do
	to=$(readlink "$link")
	case $to in *.gz) continue ;; esac
	rm "$link"
	ln -s "$to.gz" "$link.gz"
done
install -m 0755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN"
# An upgrade must not undo what an administrator has written.
[ ! -d "$root/etc" ] || (cd "$root" && find etc -type f | LC_ALL=C sort | sed 's,^,/,') >"$root/DEBIAN/conffiles"

# dpkg-shlibdeps wants to be in the tree of a source package.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
printf 'Source: swtpm-go\n\nPackage: swtpm-go\nArchitecture: any\n' >"$work/debian/control"
needs=$(cd "$work" && dpkg-shlibdeps -O "$root"/usr/bin/* | sed -n 's/^shlibs:Depends=//p')
cat >"$root/DEBIAN/control" <<END
Package: swtpm-go
Version: $3
Section: misc
Priority: optional
Architecture: $(dpkg --print-architecture)
Maintainer: the swtpm-go authors <swtpm-go@example.org>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $needs, systemd | systemd-standalone-sysusers
Provides: swtpm (= 0.11.0), swtpm-tools (= 0.11.0)
Conflicts: swtpm, swtpm-tools
Replaces: swtpm, swtpm-tools
Description: TPM emulator with profiles, units and durable state
 swtpm-go emulates a TPM 1.2 or 2.0 for a virtual machine. It takes the command
 lines of swtpm and its tools, reads and writes their state, and is started by
 libvirt and QEMU in their place.
 .
 A TPM of its own kind is described by a profile in /etc/swtpm and started by
 systemctl start swtpm@NAME.
END
# du counts the blocks of whoever built it; what is in the package is root's.
mkdir -p "$(dirname "$2")"
dpkg-deb --root-owner-group --build "$root" "$2"
