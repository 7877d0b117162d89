package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// fileOf returns the name of the file that is loaded for name. Under Options.DryRun the
// state and its backup are exchanged, and an interrupted change is completed, without a
// rename.
func (d *Dir) fileOf(name string) (string, error) {
	if d.swapped && name == d.permanent {
		name = backupName(name)
	}
	file, ok := d.recovery[name]
	switch {
	case ok && file == "":
		return "", fmt.Errorf("%q, which an interrupted change removes: %w", name, fs.ErrNotExist)
	case ok:
		return file, nil
	}
	return name, nil
}

// swapDryRun makes fileOf exchange the state and its backup, instead of SwapBackup.
func (d *Dir) swapDryRun(name, bak string) error {
	for _, n := range []string{name, bak} {
		if _, err := d.files.Stat(n); err != nil {
			return err
		}
	}
	d.swapped = !d.swapped
	return nil
}

// mayChmod fails if fchmod to want would fail for the file name, which st describes.
func mayChmod(name string, st *unix.Stat_t, want uint32) error {
	if uint32(os.Geteuid()) == st.Uid || HasCap(unix.CAP_FOWNER) {
		return nil
	}
	return fmt.Errorf("set mode %#o of %q: %w", want, name, unix.EPERM)
}

// HasCap reports whether this thread has the capability c, one of unix.CAP_….
func HasCap(c int) bool {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// queryLocks fails if Lock would. It acquires nothing, not even for a moment: an emulator
// that starts at that moment must not find the state locked.
func (d *Dir) queryLocks() error {
	h, err := d.Holder()
	if err == nil && h.Held {
		err = d.errLocked()
	}
	return err
}

// Holder returns the process that holds the lock. It fails as Lock does if .lock is not a
// lock file.
//
// A query of .lock finds its lock, but no process id if the lock belongs to an open file.
// The kernel's list of locks has the lock of the directory with its process id.
func (d *Dir) Holder() (h nv.Holder, err error) {
	var dirStat unix.Stat_t
	if err := unix.Fstat(d.files.FD(), &dirStat); err != nil {
		return h, fmt.Errorf("lock: stat state directory: %w", err)
	}
	if h.Held, h.PID, err = d.fileHolder(); err != nil {
		return h, err
	}
	if h.PID > 0 {
		return h, nil
	}
	devices := []uint64{uint64(dirStat.Dev), d.device()}
	if pid, held := safefile.FlockHolder(dirStat.Ino, devices...); held {
		return nv.Holder{Held: true, PID: pid}, nil
	}
	return h, nil
}

// fileHolder queries the lock of .lock. pid is 0 or less if the lock belongs to an open
// file.
func (d *Dir) fileHolder() (held bool, pid int, err error) {
	st, err := d.files.Stat(lockName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, 0, nil
	case err != nil:
		return false, 0, fmt.Errorf("lock: %w", err)
	}
	if err := d.files.CheckType(lockName, &st); err != nil {
		return false, 0, fmt.Errorf("lock: %w", err)
	}
	fd, err := d.files.OpenFD(lockName, unix.O_WRONLY, 0)
	if err != nil {
		return false, 0, fmt.Errorf("lock: %w", err)
	}
	defer unix.Close(fd)
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if _, err := safefile.Lock(fd, unix.F_OFD_GETLK, &whole); err != nil && safefile.CannotLock(err) {
		return false, 0, safefile.WithKind(safefile.ErrNoLocks, fmt.Errorf("lock %q: %w", lockName, err))
	} else if err != nil {
		return false, 0, fmt.Errorf("lock %q: %w", lockName, err)
	}
	return whole.Type != unix.F_UNLCK, max(int(whole.Pid), 0), nil
}
