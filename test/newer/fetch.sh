#!/bin/sh
# Unpacks a newer libtpms and the reference that belongs to it, with the C library,
# OpenSSL and what else they need, from Debian's unstable suite into the directory
# $1. Nothing is installed: the machine's own packages and package lists stay as
# they are.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
cd "$1"

packages="libtpms0 libssl3t64 libzstd1 zlib1g libc6
	swtpm swtpm-libs libglib2.0-0t64 libjson-glib-1.0-0 libseccomp2
	openssl libatomic1 libffi8 libmount1 libblkid1 libpcre2-8-0 libselinux1 libgcc-s1"
[ "$(cat root/done 2>/dev/null)" != "$packages" ] || exit 0

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
rm -rf root
mkdir -p lists/partial cache/archives/partial root
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >sources.list
: >status
apt="-o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null
	-o Dir::State::Lists=$PWD/lists -o Dir::State::status=$PWD/status
	-o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root"
# The options and the packages are words.
# shellcheck disable=SC2086
{
	apt-get $apt -qq update
	rm -f ./*.deb
	apt-get $apt -qq download $packages
}
for d in ./*.deb; do dpkg-deb -x "$d" root; done
printf '%s\n' "$packages" >root/done
