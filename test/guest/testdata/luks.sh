#!/bin/sh
# Runs in the guest of TestEncryptedDisk, whose disk is encrypted with LUKS. Its keys are
# sealed to the TPM, under the SRK and with a policy for PCRs that the firmware extends:
#
#   slot 0         the sealed key is in a token of the LUKS header, as systemd-cryptenroll
#                  stores it; it stays
#   slots 1 to 3   the sealed key is a persistent object of the TPM, and a token has its
#                  handle; the guest changes it again and again
#
#   make   create the SRK, the encrypted file system and a counter in the TPM
#   begin  write the first record and make the first key of the TPM
#   work   write records and change keys for ever; a line for each that is on the disk
#   open   open the disk with both keys, mount it, and check all records
#   shut   close the disk
set -eu
export PATH=/usr/bin TPM2TOOLS_TCTI=device:/dev/tpmrm0 DM_DISABLE_UDEV=1
disk=/dev/vda pcrs=sha256:0,2,4,7 srk=0x81000001 counter=0x1800001 first=0x81000100
cd /tmp

new_key() { dd if=/dev/urandom of="$1" bs=32 count=1 2>/dev/null; }

# seal writes the sealed file $1 to $1.pub and $1.priv.
seal() {
	tpm2_createpolicy -Q --policy-pcr -l $pcrs -L policy
	tpm2_create -Q -C $srk -L policy -i "$1" -u "$1.pub" -r "$1.priv"
}

unseal() { tpm2_unseal -Q -c "$1" -p pcr:$pcrs -o "$2"; }

count() { tpm2_nvread -C o -s 8 $counter | od -An -v -tx1 | tr -d ' \n'; }

# field prints the field $2 of the token $1.
field() { cryptsetup token export --token-id "$1" $disk 2>/dev/null | tr '{},' '\n\n\n' | sed -n "s/^ *\"$2\": *\"\(.*\)\"\$/\1/p"; }

# add_token adds the token $1 for the slot $1, of type $2 and with the JSON fields $3.
add_token() {
	echo "{\"type\":\"$2\",\"keyslots\":[\"$1\"],$3}" >token
	cryptsetup token import --token-id "$1" --json-file token $disk
}

make() {
	tpm2_createprimary -Q -C o -G ecc -c srk.ctx
	tpm2_evictcontrol -Q -C o -c srk.ctx $srk
	new_key key
	seal key
	cryptsetup luksFormat -q --type luks2 --luks2-metadata-size 16k --luks2-keyslots-size 2M \
		--cipher aes-xts-plain64 --key-size 256 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file key $disk
	add_token 0 blob "\"public\":\"$(base64 -w0 key.pub)\",\"private\":\"$(base64 -w0 key.priv)\""
	cryptsetup open --key-file key $disk secret
	mkfs.ext4 -q /dev/mapper/secret
	mount /dev/mapper/secret /mnt
	tpm2_nvdefine -Q $counter -C o -s 8 -a 'ownerread|ownerwrite|authread|authwrite|nt=counter'
}

# begin makes the first key of the TPM and the first record.
begin() {
	rotate 0
	record 0
}

# rotate makes the key of the slot $1 % 3 + 1, first in the TPM, then on the disk; then it
# removes the key before that from the disk, and the key before that one from the TPM.
rotate() {
	new_key "key.$1"
	seal "key.$1"
	tpm2_load -Q -C $srk -u "key.$1.pub" -r "key.$1.priv" -c loaded.ctx
	handle=$(printf '0x%x' $((first + $1)))
	tpm2_evictcontrol -Q -C o -c loaded.ctx "$handle"
	slot=$(($1 % 3 + 1))
	cryptsetup luksAddKey -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --new-key-slot $slot --key-file key $disk "key.$1"
	add_token $slot handle "\"handle\":\"$handle\""
	[ "$1" -lt 1 ] || {
		old=$((($1 - 1) % 3 + 1))
		cryptsetup token remove --token-id $old $disk
		cryptsetup luksKillSlot -q --key-file "key.$1" $disk $old
	}
	[ "$1" -lt 2 ] || tpm2_evictcontrol -Q -C o -c "$(printf '0x%x' $((first + $1 - 2)))"
	echo "> rotated $1"
}

# record increases the TPM's counter, and then writes it to the disk with random bytes.
record() {
	tpm2_nvincrement -Q -C o $counter
	dd if=/dev/urandom of="/mnt/$1" bs=4k count=4 2>/dev/null
	echo "$1 $(count) $(sha256sum <"/mnt/$1" | cut -d' ' -f1)" >>/mnt/records
	sync
	echo "> written $1"
}

work() {
	n=1 k=1
	while :; do
		record $n
		[ $((n % 4)) -ne 0 ] || { rotate $k && k=$((k + 1)); }
		n=$((n + 1))
	done
}

open() {
	newest=0
	for t in 1 2 3; do
		h=$(field $t handle)
		[ -z "$h" ] || [ $((h)) -le $((newest)) ] || newest=$h
	done
	unseal "$newest" newest
	cryptsetup open --test-passphrase --key-file newest $disk
	field 0 public | base64 -d >pub
	field 0 private | base64 -d >priv
	tpm2_load -Q -C $srk -u pub -r priv -c blob.ctx
	unseal blob.ctx key
	cryptsetup open --key-file key $disk secret
	mount /dev/mapper/secret /mnt
	n=0
	while read -r name value sum; do
		[ "$name" -eq $n ] || { echo "record $name in place of $n" && exit 1; }
		[ "$(sha256sum <"/mnt/$name" | cut -d' ' -f1)" = "$sum" ] || { echo "record $n is damaged" && exit 1; }
		n=$((n + 1)) last=$value
	done </mnt/records
	echo "$n $((0x$last)) $((0x$(count))) $((newest - first))"
}

shut() {
	umount /mnt
	cryptsetup close secret
}

"$@"
