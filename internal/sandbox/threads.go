package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// taskDir has a directory for each thread.
const taskDir = "/proc/self/task"

// The capabilities by which root has its way with files of others, as far as Landlock
// lets it. It cannot be their owner instead. As the owner (setresuid, or setfsuid on
// every thread) it would make state that is not root's, as that of swtpm is, could not
// read what root has left in the directory before, and could not remove its sockets and
// its pid file from directories of root's. And to be the owner for some calls only,
// the filter would have to allow setfsuid, by which whoever has taken over the
// process is root again. --runas is the way to be somebody else.
const (
	readOthers  = 1 << unix.CAP_DAC_READ_SEARCH
	writeOthers = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
	giveOthers  = writeOthers | 1<<unix.CAP_CHOWN
)

// capabilities returns those of this thread, in two words; all threads have the same.
func capabilities() (have [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return have, unix.Capget(&header, &have[0])
}

// boundingSetIsEmpty reports whether no exec could give a capability back.
func boundingSetIsEmpty() bool {
	for n := uintptr(0); ; n++ {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, n, 0, 0, 0); err != nil || has != 0 {
			return err == unix.EINVAL && n > 0 // the kernel knows no more
		}
	}
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
	status := make([]byte, 0, 4096) // for all of them: what is made here stays for as long as the TPM does
	for _, e := range entries {
		status, err = readFileInto(status[:0], taskDir+"/"+e.Name()+"/status")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at the threads: %w", err)
		}
		if err := a.checkThread(status); err != nil {
			return fmt.Errorf("thread %s: %w", e.Name(), err)
		}
	}
	return nil
}

// readFileInto returns b with what is in a file behind it.
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
	kept := none
	if a.Keeps != 0 {
		kept = fmt.Sprintf("%016x", a.Keeps)
	}
	for _, want := range []struct {
		name, value string
		applies     bool
	}{
		{"CapInh", none, !a.keepsIt},
		{"CapAmb", none, !a.keepsIt},
		{"CapPrm", kept, !a.keepsIt},
		{"CapEff", kept, !a.keepsIt},
		{"CapBnd", none, a.bounded},
		{"NoNewPrivs", "1", true},
		{"Seccomp", "2", a.Seccomp != ""},
	} {
		if !want.applies {
			continue
		}
		value, ok := statusLine(status, want.name)
		if !ok {
			return fmt.Errorf("the kernel does not tell %s", want.name)
		}
		if string(value) != want.value {
			return fmt.Errorf("%s is %s, not %s", want.name, value, want.value)
		}
	}
	return nil
}

// statusLine returns what the line called name says.
func statusLine(status []byte, name string) (value []byte, ok bool) {
	for line := range bytes.Lines(status) {
		if is, value, _ := bytes.Cut(line, []byte(":")); string(is) == name {
			return bytes.TrimSpace(value), true
		}
	}
	return nil, false
}
