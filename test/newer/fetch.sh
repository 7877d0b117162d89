#!/bin/sh
# Unpacks a newer libtpms, with the C library and OpenSSL that it needs, from
# Debian's unstable suite into the directory $1. Nothing is installed: the
# machine's own packages and package lists stay as they are.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
[ ! -e root/done ] || exit 0

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p lists/partial cache/archives/partial root
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >sources.list
: >status
apt="-o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null
	-o Dir::State::Lists=$PWD/lists -o Dir::State::status=$PWD/status
	-o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root"
# The options are words.
# shellcheck disable=SC2086
{
	apt-get $apt -qq update
	apt-get $apt -qq download libtpms0 libssl3t64 libzstd1 zlib1g libc6
}
for d in ./*.deb; do dpkg-deb -x "$d" root; done
touch root/done
