#!/bin/sh
# Installs the Debian packages that a job needs and that are missing.
#
#   contrib/deps.sh build         compile
#   contrib/deps.sh run           talk to a TPM from the shell
#   contrib/deps.sh test          the test suite: the reference and real clients
#   contrib/deps.sh libvirt       virtual machines of libvirt
#   contrib/deps.sh guest         virtual machines of QEMU
#   contrib/deps.sh kernel        a virtual machine with a kernel's own TPM drivers
#   contrib/deps.sh units         systemd's tools, to read the units
#   contrib/deps.sh policy        compilers of AppArmor and SELinux
#   contrib/deps.sh deb           a Debian package
#   contrib/deps.sh systemd       a container with systemd
#   contrib/deps.sh debtest       the same for the Debian package, and lintian
#   contrib/deps.sh trixie        mmdebstrap, for a root file system of Debian 13
#
# With --list before the job, the names of all its packages are printed, and none is installed.
set -eu

build='gcc libc6-dev make pkg-config libtpms-dev'
run="$build tpm2-tools libtss2-tcti-swtpm0"
test="$run git xz-utils libssl-dev libseccomp-dev swtpm swtpm-tools swtpm-dev strace groff-base openssl tshark zsh fish etcd-server etcd-client iproute2 iptables softhsm2 tpm2-openssl python3-prometheus-client bindfs systemd e2fsprogs"
libvirt="$test systemd libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils"
guest="$build etcd-server etcd-client iproute2 iptables swtpm qemu-system-x86 qemu-utils xz-utils zstd ovmf systemd-boot-efi sbsigntool openssl binutils tpm2-tools systemd cryptsetup-bin libtss2-tcti-device0 busybox-static e2fsprogs"
kernel="$build qemu-system-x86 xz-utils zstd mmdebstrap cpio"
units="$build systemd"
policy='make apparmor checkpolicy semodule-utils policycoreutils selinux-policy-dev setools'
deb="$build dpkg-dev"
systemd="$build systemd-container mmdebstrap qemu-system-x86 etcd-server"
debtest="$systemd $deb lintian"
trixie="$build mmdebstrap"

list=
[ "${1:-}" != --list ] || { list=yes && shift; }

case ${1:-} in
build) want=$build ;;
run) want=$run ;;
test) want=$test ;;
libvirt) want=$libvirt ;;
guest) want=$guest ;;
kernel) want=$kernel ;;
units) want=$units ;;
policy) want=$policy ;;
deb) want=$deb ;;
systemd) want=$systemd ;;
debtest) want=$debtest ;;
trixie) want=$trixie ;;
*)
	echo "usage: $0 [--list] build|run|test|libvirt|guest|kernel|units|policy|deb|systemd|debtest|trixie" >&2
	exit 2
	;;
esac
[ -z "$list" ] || { echo "$want" && exit 0; }

# Debian 13 has new names for some libraries: libtss2-tcti-swtpm0t64.
installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

missing=
for p in $want; do
	installed "$p" || installed "${p}t64" || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then
	root=sudo
	command -v sudo >/dev/null || {
		echo "$0: these packages are missing and need root to install:$missing" >&2
		exit 1
	}
fi
echo "Installing Debian packages:$missing"
$root env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -qq && apt-get install -qq --no-install-recommends $missing >/dev/null"
