#!/bin/sh
# Compiles the policies for AppArmor and SELinux, and checks which accesses the SELinux
# policy allows together with Debian's own policy. Neither needs to be active in this kernel,
# and nothing is loaded. $1 is a directory for the work.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 BUILDDIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
build=$(cd "$1" && pwd)
PATH=$PATH:/usr/sbin:/sbin

echo "apparmor_parser"
# As for a kernel that knows all kinds of rules.
apparmor_parser --skip-kernel-load --skip-cache --features-file=/etc/apparmor.d/abi/3.0 --Werror "$here"/contrib/apparmor/*

# A unit is up once it has notified systemd. The rules as they are loaded have it.
apparmor_parser --skip-kernel-load --skip-cache --features-file=/etc/apparmor.d/abi/3.0 --debug --debug "$here/contrib/apparmor/usr.bin.swtpm" 2>&1 | grep -q '/run})*/systemd/notify)' || {
	echo "apparmor: swtpm may not notify systemd that it is ready" >&2
	exit 1
}

echo "checkmodule, semodule_package"
rm -rf "$build/module" && mkdir -p "$build/module"
cp "$here"/contrib/selinux/swtpm.* "$build/module"
out=$(make -s -C "$build/module" -f /usr/share/selinux/devel/Makefile NAME=default swtpm.pp 2>&1) || {
	echo "$out" >&2
	exit 1
}
# The output also has warnings about Debian's own headers.
if echo "$out" | grep -E '^(swtpm\.|ERROR|.*swtpm\.(te|if|fc))' >&2; then exit 1; fi

echo "linked with Debian's policy"
root=$build/policy
stamp=$(cat "$here"/contrib/selinux/swtpm.* "$0" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$build/stamp" 2>/dev/null)" != "$stamp" ]; then
	rm -rf "$root" "$build/deb" && mkdir -p "$build/deb" "$root"
	(
		cd "$build/deb"
		# Not installed: it would label the file system. apt's own user may not
		# write here.
		apt-get -qq -o APT::Sandbox::User=root download selinux-policy-default >/dev/null 2>"$build/deb/err" || {
			apt-get -qq update && apt-get -qq -o APT::Sandbox::User=root download selinux-policy-default >/dev/null
		}
		dpkg-deb -x selinux-policy-default_*.deb "$root"
	)
	mkdir -p "$root/var/lib/selinux/default/active/modules"
	cp /etc/selinux/semanage.conf "$root/etc/selinux/"
	semodule -n -p "$root" -s default -i "$root"/usr/share/selinux/default/*.pp.bz2 "$build/module/swtpm.pp" 2>"$build/semodule.log" || {
		cat "$build/semodule.log" >&2
		exit 1
	}
	echo "$stamp" >"$build/stamp"
fi
policy=$(ls "$root"/etc/selinux/default/policy/policy.*)

fail=0
# allowed WHAT WANT ARGUMENT...: the target types of the rules that sesearch finds,
# without those that have to be switched on.
allowed() {
	what=$1 want=$2
	shift 2
	got=$(sesearch --allow "$@" "$policy" | grep '^allow' | grep -v '\[' | sed 's/^allow [^ ]* \([^:]*\):.*/\1/' | sort -u | tr '\n' ' ')
	if [ "$got" != "$want " ] && [ "$got$want" != "" ]; then
		echo "swtpm_t, $what: \"$got\", want \"$want\"" >&2
		fail=1
	fi
}
allowed "may execute" "" -s swtpm_t -c file -p execute_no_trans
allowed "may become" "" -s swtpm_t -c process -p transition
allowed "may trace" "" -s swtpm_t -c process -p ptrace
allowed "may make code of its memory" "" -s swtpm_t -c process -p execmem
allowed "may create files" "svirt_image_t svirt_runtime_t swtpm_log_t swtpm_runtime_t swtpm_tmpfs_t swtpm_var_lib_t virt_runtime_t virt_var_lib_t" -s swtpm_t -c file -p create
allowed "may open TCP" "" -s swtpm_t -t swtpm_t -c tcp_socket -p create
sesearch --allow -s swtpm_t -t ramfs_t -c file -p read "$policy" | grep -q allow || {
	echo "swtpm_t may not read the credentials of systemd" >&2
	fail=1
}
allowed "may see the CA" "" -s swtpm_t -t swtpm_ca_t -c file
allowed "may execute as the manufacture" "swtpm_setup_exec_t" -s swtpm_setup_t -c file -p execute_no_trans
allowed "may become as the manufacture" "" -s swtpm_setup_t -c process -p transition
allowed "may create as the manufacture" "swtpm_ca_t swtpm_setup_tmp_t swtpm_var_lib_t" -s swtpm_setup_t -c file -p create
allowed "may change the policy" "" -s swtpm_t -c security -p load_policy
entries=$(sesearch --allow -t swtpm_exec_t -c file -p entrypoint "$policy" | sed -n 's/^allow \([^ ]*\) swtpm_exec_t:.*/\1/p' | sort -u | tr '\n' ' ')
[ "$entries" = "svirt_t swtpm_t " ] || {
	echo "swtpm_exec_t is the entry of: \"$entries\"" >&2
	fail=1
}
sesearch --type_trans -s init_t -t swtpm_exec_t -c process "$policy" | grep -q 'process swtpm_t' || {
	echo "a unit of systemd does not run in swtpm_t" >&2
	fail=1
}
sesearch --type_trans -s init_t -t swtpm_setup_exec_t -c process "$policy" | grep -q 'process swtpm_setup_t' || {
	echo "a unit of systemd does not manufacture in swtpm_setup_t" >&2
	fail=1
}
for what in swtpm_ca_t swtpm_var_lib_t swtpm_runtime_t; do
	sesearch --allow -s systemd_tmpfiles_t -t $what -c dir -p create "$policy" | grep -q "$what:" || {
		echo "systemd-tmpfiles cannot make a directory of $what" >&2
		fail=1
	}
done
sesearch --allow -s svirt_t -t swtpm_t -c unix_stream_socket -p connectto "$policy" | grep -q allow || {
	echo "a virtual machine cannot connect to the socket of a unit" >&2
	fail=1
}
for who in swtpm_t init_t; do
	sesearch --allow -s $who -t swtpm_tmpfs_t -c file -p write "$policy" | grep -q allow || {
		echo "$who cannot keep the memory with the volatile state" >&2
		fail=1
	}
done
exit $fail
