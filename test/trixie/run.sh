#!/bin/sh
# Runs a copy of this tree in the root file system of Debian 13 that root.sh has made in
# the directory $1: the commands that follow, as root, in namespaces of their own for
# mounts and processes. Go and its modules are the machine's.
#
#   test/trixie/run.sh build/trixie ./run test
set -eu
[ $# -ge 2 ] || { echo "usage: $0 DIRECTORY COMMAND [ARGUMENTS]" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "$0: permission denied; run it as root" >&2; exit 1; }
tree=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(cd "$1" && pwd)
shift
root=$dir/root
goroot=$(go env GOROOT)
modules=$(go env GOMODCACHE)
(cd "$tree" && go mod download)

# The C libraries differ from the machine's, and Go's build cache does not know it.
rm -rf "$root/src"
mkdir -p "$root/src" "$root/go/root" "$root/go/mod" "$root/go/cache"
(cd "$tree" && tar -c --exclude=./build --exclude=./bin --exclude=./.git .) | tar -x --no-same-owner -C "$root/src"
(cd "$root/src" && git init -q && git add -A) # some tests ask git for the list of files

# mounts runs before the change of the root directory.
mounts='set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind -o ro "$2" "$1/go/root"
mount --bind -o ro "$3" "$1/go/mod"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
root=$1
shift 3
exec env -i HOME=/root TERM=dumb LANG=C.UTF-8 TMPDIR=/tmp \
	PATH=/go/root/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	GOROOT=/go/root GOMODCACHE=/go/mod GOCACHE=/go/cache GOPROXY=off GOTOOLCHAIN=local GOFLAGS=-buildvcs=false \
	chroot "$root" sh -c "cd /src && exec \"\$@\"" sh "$@"'
exec unshare --mount --pid --fork --kill-child sh -c "$mounts" sh "$root" "$goroot" "$modules" "$@"
