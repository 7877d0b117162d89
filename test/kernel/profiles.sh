#!/bin/sh
# Fetches the AppArmor profiles that Ubuntu's packages of swtpm bring, as they are: into
# $1/noble, of 24.04, and $1/resolute, of 26.04. Debian's packages have none. Nothing is
# installed. Each package is of a release, which keeps it, and checked by its digest.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
mirror=${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}

# fetch NAME VERSION DIGEST
fetch() {
	[ ! -s "$1" ] || return 0
	/usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file \
		"$mirror/pool/main/s/swtpm/swtpm_$2_amd64.deb" "$PWD/$1.deb" "SHA256:$3" >/dev/null || return 1
	dpkg-deb --fsys-tarfile "$1.deb" | tar -xOf - ./etc/apparmor.d/usr.bin.swtpm >"$1.new"
	mv "$1.new" "$1"
	rm -f "$1.deb"
}

fetch noble 0.7.3-0ubuntu5 00f017ff30b3c1be5fd25a6b67f9844ca3de32dab928a70779ee3e25c1aa865f
fetch resolute "0.10.1+ds-1ubuntu3" e5ad835b0d516faab47dd7bae44a640993ebf981554fac5ff8cb3206030f71c6
