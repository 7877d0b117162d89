package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// taskDir contains a directory for each thread.
const taskDir = "/proc/self/task"

// Capabilities with which root accesses files of other users, as far as Landlock allows. Running
// as their owner (setresuid, or setfsuid on every thread) is not an alternative: new state
// would not belong to root, as it does with swtpm; existing files of root in the directory
// would not be readable; and sockets and the pid file could not be removed from directories of
// root. Becoming the owner for some calls only would require a filter that allows setfsuid,
// with which an attacker becomes root again. Use --runas to run as another user.
const (
	readOthers  = 1 << unix.CAP_DAC_READ_SEARCH
	writeOthers = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
	giveOthers  = writeOthers | 1<<unix.CAP_CHOWN
)

// capabilities returns the capabilities of this thread, which are those of all threads.
func capabilities() (have [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return have, unix.Capget(&header, &have[0])
}

// boundingSetIsEmpty reports whether the bounding set is empty, so that no exec adds capabilities.
func boundingSetIsEmpty() bool {
	for n := uintptr(0); ; n++ {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, n, 0, 0, 0); err != nil || has != 0 {
			return err == unix.EINVAL && n > 0 // after the last capability
		}
	}
}

// hasForeignFiles reports whether a file or directory that p.Rights applies to, or a file in
// such a directory, belongs to another user. It returns true if such a directory cannot be listed, because
// the TPM could not work without the rights.
func (p *Policy) hasForeignFiles() bool {
	for _, file := range p.Files {
		if file.Access&^(readFile|readDir) == 0 && p.Rights&readOthers == 0 || file.Path == p.Marks {
			continue
		}
		if !isOwn(file.Path) {
			return true
		}
		if file.Access&(makeFile|readDir) == 0 {
			continue
		}
		names, err := listDir(file.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return true
		}
		for _, name := range names {
			if !isOwn(file.Path + "/" + name) {
				return true
			}
		}
	}
	return false
}

func isOwn(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) != nil || st.Uid == uint32(unix.Geteuid())
}

// checkThreads returns an error if a thread does not have the restrictions in a. Threads that
// end meanwhile are ignored, and new threads inherit the restrictions.
func (p *Policy) checkThreads(a Active) error {
	names, err := listDir(taskDir)
	if err != nil {
		return fmt.Errorf("check the threads: %w", err)
	}
	status := make([]byte, 0, 2048) // one buffer for all threads, on the stack
	for _, name := range names {
		status, err = readFileInto(status[:0], taskDir+"/"+name+"/status")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("check the threads: %w", err)
		}
		if err := a.checkThread(status); err != nil {
			return fmt.Errorf("thread %s: %w", name, err)
		}
	}
	return nil
}

// readFileInto appends the contents of a file to b.
func readFileInto(b []byte, path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return b, err
	}
	defer unix.Close(fd)
	for {
		b = slices.Grow(b, 1)
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return b, err
		case n == 0:
			return b, nil
		default:
			b = b[:len(b)+n]
		}
	}
}

// checkThread reads /proc/PID/task/TID/status.
//
// Source: proc_pid_status(5).
func (a Active) checkThread(status []byte) error {
	const none = "0000000000000000"
	rights := none
	if a.Rights != 0 {
		rights = fmt.Sprintf("%016x", a.Rights)
	}
	for _, want := range []struct {
		name, value string
		applies     bool
	}{
		{"CapInh", none, !a.keepsCapabilities},
		{"CapAmb", none, !a.keepsCapabilities},
		{"CapPrm", rights, !a.keepsCapabilities},
		{"CapEff", rights, !a.keepsCapabilities},
		{"CapBnd", none, a.bounded},
		{"NoNewPrivs", "1", true},
		{"Seccomp", "2", a.Seccomp != ""},
	} {
		if !want.applies {
			continue
		}
		value, ok := statusLine(status, want.name)
		if !ok {
			return fmt.Errorf("missing %s in the status of a thread", want.name)
		}
		if string(value) != want.value {
			return fmt.Errorf("%s is %s, not %s", want.name, string(value), want.value)
		}
	}
	return nil
}

// statusLine returns the value of the line name.
func statusLine(status []byte, name string) (value []byte, ok bool) {
	for len(status) > 0 {
		var line []byte
		line, status, _ = bytes.Cut(status, []byte("\n")) // bytes.Lines would move status to the heap
		if is, value, _ := bytes.Cut(line, []byte(":")); string(is) == name {
			return bytes.TrimSpace(value), true
		}
	}
	return nil, false
}
