package sandbox

import "golang.org/x/sys/unix"

// attacks are calls that no version of libc, Go, OpenSSL or libtpms makes in a running TPM, and
// that an attacker who controls the process would make. Calls that a legitimate program
// might try are not listed; they fail with ENOSYS.
var attacks = []struct {
	why   string
	names []string
}{
	{"executes a program", []string{"execve", "execveat"}},
	{"creates a process", []string{"fork", "vfork"}},
	{"connects to other processes and hosts", []string{"socket", "bind", "connect", "listen"}},
	{"reads, changes or controls other processes", []string{"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
		"pidfd_open", "pidfd_getfd", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "kcmp"}},
	{"changes mounts", []string{"mount", "umount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
		"fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"}},
	{"opens a file without its path", []string{"open_by_handle_at"}},
	{"changes the kernel", []string{"init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load", "bpf"}},
	{"changes the host", []string{"reboot", "swapon", "swapoff", "acct", "sethostname", "setdomainname", "settimeofday", "clock_settime",
		"iopl", "ioperm", "vhangup", "quotactl", "quotactl_fd", "nfsservctl"}},
	{"is a kernel interface that had many vulnerabilities", []string{"perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register",
		"userfaultfd", "keyctl", "add_key", "request_key", "fanotify_init", "modify_ldt"}},
	{"becomes another user", []string{"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capset"}},
	{"changes namespaces or the execution domain", []string{"setns", "unshare", "personality"}},
}

// fatal returns the calls that end the process if the policy says "kill". pid is the only
// process that may get signals.
func fatal(pid uint64) []Call {
	calls := []Call{
		{"clone", "creates a process", []Check{masked(0, unix.CLONE_THREAD, 0)}},
		{"kill", "sends a signal to another process", []Check{differs(0, pid)}},
		{"tgkill", "sends a signal to another process", []Check{differs(0, pid)}},
		// TCP Fast Open: a listening socket becomes a client after shutdown(2), and Linux asks Landlock only in connect(2).
		{"sendto", "connects to another host", []Check{masked(3, unix.MSG_FASTOPEN, unix.MSG_FASTOPEN)}},
		{"sendmsg", "connects to another host", []Check{masked(2, unix.MSG_FASTOPEN, unix.MSG_FASTOPEN)}},
		{"sendmmsg", "connects to another host", []Check{masked(3, unix.MSG_FASTOPEN, unix.MSG_FASTOPEN)}},
		{"mmap", "makes memory executable", []Check{masked(2, unix.PROT_EXEC, unix.PROT_EXEC)}},
		{"mprotect", "makes memory executable", []Check{masked(2, unix.PROT_EXEC, unix.PROT_EXEC)}},
		{"pkey_mprotect", "makes memory executable", []Check{masked(2, unix.PROT_EXEC, unix.PROT_EXEC)}},
		{"shmat", "makes memory executable", []Check{masked(2, shmExec, shmExec)}},
	}
	for _, group := range attacks {
		for _, name := range group.names {
			calls = append(calls, Call{name, group.why, nil})
		}
	}
	return calls
}

// shmExec is SHM_EXEC, which x/sys/unix lacks on some architectures.
//
// Source: <bits/shm.h>, shmop(2).
const shmExec = 0o100000
