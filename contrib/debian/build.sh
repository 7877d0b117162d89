#!/bin/sh
# Creates the Debian package $2 of version $3 from the files that `make install PREFIX=/usr` has
# written to the directory $1. Equal files give equal packages.
#
# $DEBFULLNAME and $DEBEMAIL name the maintainer. $SOURCE_DATE_EPOCH is the date of the package,
# in seconds since 1970; without it, the date of the manual page counts.
set -eu
[ $# -eq 3 ] || { echo "usage: $0 DIRECTORY PACKAGE VERSION" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$1" && pwd)
doc=$root/usr/share/doc/swtpm-go
version=$3-1
maintainer="${DEBFULLNAME:-the swtpm-go authors} <${DEBEMAIL:-swtpm-go@example.org}>"
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(date -u -d "$(sed -n 's/^\.TH SWTPM 8 \([0-9-]*\) .*/\1/p' "$here/../../man/swtpm.8")" +%s)
fi
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC

mkdir -p "$doc" "$root/DEBIAN"
install -m 0644 "$here/../../LICENSE" "$doc/copyright"
gzip -9nc "$here/../../CHANGELOG.md" >"$doc/changelog.gz"
gzip -9nc >"$doc/changelog.Debian.gz" <<END
swtpm-go ($version) unstable; urgency=medium

  * Built by make deb; changelog.gz lists the changes.

 -- $maintainer  $(date -R -d "@$SOURCE_DATE_EPOCH")
END
chmod 0644 "$doc/changelog.gz" "$doc/changelog.Debian.gz"
# postinst may need this file. It is not among the documents, because an administrator may
# exclude these from the installation.
install -D -m 0644 "$here/../apparmor/usr.bin.swtpm" "$root/usr/share/swtpm-go/usr.bin.swtpm"
install -d "$root/usr/share/lintian/overrides"
install -m 0644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/swtpm-go"
find "$root/usr/share/man" -type f ! -name '*.gz' -exec gzip -9n {} +
find "$root/usr/share/man" -type l | while read -r link; do
	to=$(readlink "$link")
	case $to in *.gz) continue ;; esac
	rm "$link"
	ln -s "$to.gz" "$link.gz"
done
install -m 0644 "$here/triggers" "$root/DEBIAN"
install -m 0755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN"
# An upgrade must not undo the changes of an administrator.
(cd "$root" && find etc -type f | sort | sed 's,^,/,') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

# dpkg-shlibdeps needs the tree of a source package.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
printf 'Source: swtpm-go\n\nPackage: swtpm-go\nArchitecture: any\n' >"$work/debian/control"
needs=$(cd "$work" && dpkg-shlibdeps -O "$root"/usr/bin/* | sed -n 's/^shlibs:Depends=//p')
# The size in KiB counts a file with several names once. It is computed from bytes, because the
# number of blocks depends on the file system.
size=$(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%i %s\n' -o -printf '%i 1\n' | sort -u |
	awk '{ n += int(($2 + 1023) / 1024) } END { print n }')
cat >"$root/DEBIAN/control" <<END
Package: swtpm-go
Version: $version
Section: misc
Priority: optional
Architecture: $(dpkg --print-architecture)
Maintainer: $maintainer
Installed-Size: $size
Depends: $needs, systemd | systemd-standalone-sysusers
Provides: swtpm (= 0.11.0), swtpm-dev (= 0.11.0), swtpm-tools (= 0.11.0)
Conflicts: swtpm, swtpm-dev, swtpm-tools
Replaces: swtpm, swtpm-dev, swtpm-tools
Description: TPM emulator with profiles, units and durable state
 swtpm-go emulates a TPM 1.2 or 2.0 for a virtual machine. It accepts the
 command lines of swtpm and its tools, reads and writes their state files, and
 replaces them for libvirt and QEMU scripts.
 .
 A profile in /etc/swtpm describes a TPM that systemctl start swtpm@NAME starts.
END
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$(dirname "$2")"
dpkg-deb --root-owner-group --build "$root" "$2"
