#!/bin/sh
# Unpacks the kernel of Debian's package linux-image-amd64 into the directory $1:
# vmlinuz, which UEFI starts; vmlinux, an ELF file, which QEMU starts through its PVH
# entry; and in modules/ the modules for a TPM behind a file (tpm_vtpm_proxy, fuse and cuse) and for an
# encrypted disk. modules/order lists the latter in the order in which the kernel takes them. In signed/
# is what starts a machine with Secure Boot: Debian's signed shim and GRUB, and the kernel of
# linux-image-rt-amd64 as another one. Nothing is installed: the machine's own packages and package
# lists stay as they are.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
[ ! -e vmlinux ] || [ ! -e modules/order ] || [ ! -e vmlinuz ] || [ ! -e signed/vmlinuz-rt ] || exit 0

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
rm -rf root ./*.deb
mkdir -p lists/partial cache/archives/partial root
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror ${suite:-bookworm} main" >sources.list
: >status
apt="-o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null
	-o Dir::State::Lists=$PWD/lists -o Dir::State::status=$PWD/status
	-o Dir::Cache=$PWD/cache -o APT::Architecture=amd64 -o APT::Sandbox::User=root"
# The options are words.
# shellcheck disable=SC2086
{
	apt-get $apt -qq update
	# The package is empty; what it depends on has the version in its name.
	kernel_of() { apt-cache $apt depends "$1" | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*-amd64\)$/\1/p'; }
	package=$(kernel_of linux-image-amd64)
	other=$(kernel_of linux-image-rt-amd64)
	[ -n "$package" ] && [ -n "$other" ] || { echo "$0: linux-image-amd64 or linux-image-rt-amd64 names no kernel" >&2; exit 1; }
	apt-get $apt -qq download "$package" "$other" shim-signed grub-efi-amd64-signed
}
rm -rf signed signed.new other
mkdir signed.new
for p in shim-signed grub-efi-amd64-signed "$other"; do
	dpkg-deb -x "$p"_*.deb other
done
cp other/usr/lib/shim/shimx64.efi.signed signed.new/shimx64.efi
cp other/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed signed.new/grubx64.efi
cp other/boot/vmlinuz-* signed.new/vmlinuz-rt
rm -rf other
dpkg-deb -x "$package"_*.deb root
set -- root/boot/vmlinuz-*

# Where the compressed kernel is in a bzImage: after the boot sector and the
# sectors that byte 0x1f1 counts, at the offset in the u32 at 0x248, as long as
# that at 0x24c says, the last four bytes being its size once it is unpacked.
# Source: Linux, Documentation/x86/boot.rst.
number() { od -An -v -tu"$2" -j "$1" -N "$2" "$kernel" | tr -d ' '; }
kernel=$1
start=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
size=$(($(number 588 4) - 4))
tail -c +$((start + 1)) "$kernel" | head -c "$size" >payload
case $(od -An -tx1 -N4 payload | tr -d ' ') in
fd377a58) xz -dc payload >vmlinux.new ;;
28b52ffd) zstd -dcq payload >vmlinux.new ;;
1f8b*) gzip -dc payload >vmlinux.new ;;
*)
	echo "$0: $kernel is compressed in a way that is not known here" >&2
	exit 1
	;;
esac
rm -rf modules.new modules
mkdir modules.new

# add unpacks the module $1, after those that it depends on, and lists it in modules.new/order.
# A dependency is a word of the text "depends=" in the module.
add() {
	name=$(echo "$1" | tr - _)
	[ ! -e "modules.new/$name.ko" ] || return 0
	from=$(find root/lib/modules root/usr/lib/modules -name "$(echo "$1" | sed 's/[-_]/[-_]/g').ko*" 2>/dev/null || true)
	case $from in
	'') return 0 ;; # built in
	*.xz) xz -dc "$from" >"modules.new/$name.ko" ;;
	*) cp "$from" "modules.new/$name.ko" ;;
	esac
	for d in $(tr '\0' '\n' <"modules.new/$name.ko" | sed -n 's/^depends=//p' | tr , ' '); do
		add "$d"
	done
	name=$(echo "$1" | tr - _)
	echo "$name.ko" >>modules.new/order
}
add tpm_vtpm_proxy
add cuse
[ "$(find modules.new -name '*.ko' | wc -l)" -eq 3 ] || { echo "$0: $kernel has not all the modules" >&2; exit 1; }
: >modules.new/order
for m in virtio_pci virtio_blk crc32c_generic ext4 ecb xts dm-crypt algif_skcipher; do
	add "$m"
done
cp "$kernel" vmlinuz.new
rm -rf root payload lists cache ./*.deb
mv vmlinuz.new vmlinuz
mv signed.new signed
mv modules.new modules
mv vmlinux.new vmlinux
