#!/bin/sh
# Checks the package $1: lintian reports nothing, a second build has the same bytes, and
# `make uninstall` removes the files of `make install` except a changed one.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 PACKAGE" >&2; exit 2; }
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "$0: $*" >&2; exit 1; }

echo "lintian"
lintian --fail-on error,warning,override "$1" 2>"$work/log" >"$work/out" || fail "$(cat "$work/out" "$work/log")"
if lintian --info --show-overrides "$1" 2>/dev/null | grep unused-override >&2; then fail "an override is unused"; fi

echo "programs with two names are in the package once"
dpkg-deb --fsys-tarfile "$1" | tar -tv >"$work/names"
for p in bios cert ioctl localca setup; do
	[ "$(grep -c "^h.* \./usr/bin/swtpm[-_]$p link to \./usr/bin/swtpm[-_]$p\$" "$work/names")" -eq 1 ] ||
		fail "no hard link: $(grep "usr/bin/swtpm[-_]$p" "$work/names")"
done

echo "the same package again"
cp "$1" "$work/first.deb"
(umask 077 && TZ=Asia/Kolkata LC_ALL=C.UTF-8 make --no-print-directory -s deb DEB="$work/second.deb" >"$work/out" 2>&1) ||
	fail "$(cat "$work/out")"
cmp "$work/first.deb" "$work/second.deb"

# sameFile DIRECTORY: both names of each program are ordinary files, and one file.
sameFile() {
	for p in bios cert ioctl localca setup; do
		[ "$(stat -c '%F %h' "$1/swtpm_$p")" = 'regular file 2' ] && [ "$1/swtpm_$p" -ef "$1/swtpm-$p" ] ||
			fail "no hard link: $(stat "$1/swtpm_$p")"
	done
}

# everything DIRECTORY: all files in it.
everything() { (cd "$1" && find . ! -type d | LC_ALL=C sort); }

# /dev/shm is on another file system than this tree.
shm=$(mktemp -d -p /dev/shm)
trap 'rm -rf "$work" "$shm"' EXIT
make --no-print-directory -s install DESTDIR="$shm" prefix=/usr >/dev/null
sameFile "$shm/usr/bin"

for prefix in /usr /opt/swtpm-go; do
	echo "make install and uninstall with prefix=$prefix"
	to=$work/root$prefix-root
	for again in 1 2; do
		make --no-print-directory -s install DESTDIR="$to" prefix=$prefix >/dev/null
		sameFile "$to$prefix/bin"
	done
	[ "$(everything "$to" | wc -l)" -ge 80 ] || fail "few files: $(everything "$to")"
	if everything "$to" | grep -v -e "^\.$prefix/" -e '^\./etc/'; then fail "these are elsewhere"; fi
	if grep -r /usr/local "$to/etc" "$to$prefix/lib/systemd"; then fail "another prefix"; fi
	echo "# changed" >>"$to/etc/swtpm/ca/swtpm_setup.conf"
	mkdir -p "$to/etc/swtpm" && echo 'tpm = "2.0"' >"$to/etc/swtpm/vm1.toml"
	make --no-print-directory -s uninstall DESTDIR="$to" prefix=$prefix >/dev/null
	left=$(everything "$to")
	[ "$left" = "$(printf './etc/swtpm/ca/swtpm_setup.conf\n./etc/swtpm/vm1.toml')" ] || fail "left behind: $left"
	if find "$to" -type d | grep -e doc/swtpm-go -e share/swtpm; then fail "directories of ours are left behind"; fi
done
