package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// taskDir has a directory for each thread.
const taskDir = "/proc/self/task"

// The capabilities by which root has its way with files of others.
const (
	readOthers  = 1 << unix.CAP_DAC_READ_SEARCH
	writeOthers = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
	giveOthers  = writeOthers | 1<<unix.CAP_CHOWN
)

// noNewPrivileges sets the flag on all threads. Landlock and the filter bring it, but
// either may be missing.
func noNewPrivileges() error {
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// dropCapabilities empties the sets of all threads. Root keeps those of p.Rights if
// a file that it needs belongs to somebody else; a.Keeps has them then.
func (p *Policy) dropCapabilities(a *Active) error {
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &have[0]); err != nil {
		return err
	}
	if have == ([2]unix.CapUserData{}) {
		return nil // systemd was first, and lets nobody call capset any more
	}
	var kept uint32
	if have[0].Permitted&p.Rights != 0 && p.foreign() {
		kept = have[0].Permitted & p.Rights
	}
	header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	want := [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	if _, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])), 0); errno != 0 {
		return errno
	}
	a.Keeps = kept
	return nil
}

// foreign tells whether one of the places that p.Rights are for, or a file in it,
// is somebody else's.
func (p *Policy) foreign() bool {
	for _, place := range p.Places {
		if place.Access&^(readFile|readDir) == 0 && p.Rights&readOthers == 0 {
			continue
		}
		if !isOurs(place.Path) {
			return true
		}
		if place.Access&(makeFile|readDir) == 0 {
			continue
		}
		entries, _ := os.ReadDir(place.Path)
		for _, e := range entries {
			if !isOurs(place.Path + "/" + e.Name()) {
				return true
			}
		}
	}
	return false
}

func isOurs(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) != nil || st.Uid == uint32(unix.Geteuid())
}

// checkThreads fails if a thread has something left that a says is gone. Those
// that have ended meanwhile had no time for harm; those to come inherit.
func (p *Policy) checkThreads(a Active) error {
	entries, err := os.ReadDir(taskDir)
	if err != nil {
		return fmt.Errorf("look at the threads: %w", err)
	}
	for _, e := range entries {
		status, err := os.ReadFile(taskDir + "/" + e.Name() + "/status")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at the threads: %w", err)
		}
		if err := a.checkThread(string(status)); err != nil {
			return fmt.Errorf("thread %s: %w", e.Name(), err)
		}
	}
	return nil
}

// checkThread reads /proc/PID/task/TID/status.
//
// Source: proc_pid_status(5).
func (a Active) checkThread(status string) error {
	const none = "0000000000000000"
	kept := fmt.Sprintf("%016x", a.Keeps)
	want := map[string]string{"CapInh": none, "CapAmb": none, "CapPrm": kept, "CapEff": kept, "NoNewPrivs": "1"}
	if a.bounded {
		want["CapBnd"] = none
	}
	if a.Seccomp != "" {
		want["Seccomp"] = "2"
	}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		w, ok := want[name]
		if !ok {
			continue
		}
		if value = strings.TrimSpace(value); value != w {
			return fmt.Errorf("%s is %s, not %s", name, value, w)
		}
		delete(want, name)
	}
	for name := range want {
		return fmt.Errorf("the kernel does not tell %s", name)
	}
	return nil
}
