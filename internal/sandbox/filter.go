package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

//go:generate go test -run ^Test(Program|Table)$ -update

// The generated program serves every policy. It has markers where the policies differ,
// and program replaces them. A marker is a value that no rule has otherwise.
const (
	// pidMarker, uidMarker and gidMarker are compared with arguments.
	pidMarker = 0x7e510001
	uidMarker = 0x7e510002
	gidMarker = 0x7e510003

	// actionMarker is the action that stands for an action of the policy. Its data is
	// fatalMarker, or fatalMarker + 1 + an index of optional.
	actionMarker = unix.SECCOMP_RET_TRACE
	fatalMarker  = 0
)

// optional are the calls that a policy may lack. All other calls of a policy are in every
// policy. fchown is allowed with the owner and the group that the policy names.
var optional = []string{
	"accept4", "shutdown", "recvfrom", "sendto", "recvmsg", "sendmsg", "getsockopt", "getsockname", "getpeername",
	"flock", "umask", "renameat", "renameat2", "pwrite64", "fdatasync", "ftruncate",
	"recvmmsg", "sendmmsg", "pipe2", "fchown", "socketpair",
}

// program returns generated as the filter of the policy.
func (p *Policy) program(generated []unix.SockFilter) []unix.SockFilter {
	uid, gid := p.owner()
	program := slices.Clone(generated)
	for i := range program {
		in := &program[i]
		switch {
		case in.Code == unix.BPF_RET|unix.BPF_K && in.K&unix.SECCOMP_RET_ACTION_FULL == actionMarker:
			in.K = p.action(in.K & unix.SECCOMP_RET_DATA)
		case in.Code != unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K:
		case in.K == pidMarker:
			in.K = uint32(unix.Getpid())
		case in.K == uidMarker:
			in.K = uid
		case in.K == gidMarker:
			in.K = gid
		}
	}
	return program
}

// action returns the action that replaces a marker.
func (p *Policy) action(marker uint32) uint32 {
	switch {
	case marker != fatalMarker:
		name := optional[marker-fatalMarker-1]
		if p.allows(name) {
			return unix.SECCOMP_RET_ALLOW
		}
		return unix.SECCOMP_RET_ERRNO | uint32(otherwise)
	case p.Seccomp == config.SeccompLog:
		return unix.SECCOMP_RET_LOG
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}

// owner returns the only owner and group that the policy allows for fchown.
func (p *Policy) owner() (uid, gid uint32) {
	if c := p.find("fchown"); c != nil {
		return uint32(c.Check[0].Want), uint32(c.Check[1].Want)
	}
	return 0, 0
}

// otherwise is the errno of the calls that no rule names.
const otherwise = unix.ENOSYS

// filter puts the classes of the policy into force for all threads, new ones included.
func filter(p Policy, r recording) error {
	if len(generated) == 0 {
		return fmt.Errorf("there is no filter for %s", runtime.GOARCH)
	}
	if err := load(generatedSilent, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
		return err
	}
	return r.load(p.program(generated))
}

// loadLogged puts program into force. The kernel logs what it refuses, if it can (Linux
// 4.14) and the administrator wants it (kernel.seccomp.actions_logged).
func loadLogged(program []unix.SockFilter) error {
	err := load(program, unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_LOG)
	if errors.Is(err, unix.EINVAL) {
		err = load(program, unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	return err
}

// load puts program into force. With SECCOMP_FILTER_FLAG_TSYNC (Linux 3.17) it is in force
// for all threads or none.
//
// Source: seccomp(2).
func load(program []unix.SockFilter, flags uintptr) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	switch {
	case errno != 0:
		return fmt.Errorf("load the filter: %w", errno)
	case thread != 0:
		return fmt.Errorf("load the filter: thread %d has another filter", thread)
	}
	return nil
}
