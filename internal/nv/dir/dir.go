// Package dir keeps the items of a TPM as files in a directory, the way swtpm
// does, so that each program runs on the other's directory:
//
//	tpm2-00.permall, tpm2-00.volatilestate       TPM 2.0
//	tpm-00.permall, .volatilestate, .savestate   TPM 1.2
//	TMP2-00.*, TMP-00.*                          while a file is written
//	*.permall.bak, *.permall.tmp                 the state before; while the two are swapped
//	NEW2-00.*, NEW-00.*                          while several files are replaced at once
//	.lock                                        lock, empty, never removed
//
// The directory is opened once, and everything after goes through that
// descriptor: whoever renames it or its parents meanwhile changes nothing.
// Whatever is not a plain file of a known owner is refused and never followed.
package dir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// DefaultMode is the permission of state files before the umask. A wider one is
// warned about.
const DefaultMode = 0o640

// A Dir can do all that a backend may.
var (
	_ nv.MovableBackend = (*Dir)(nil)
	_ nv.StatBackend    = (*Dir)(nil)
	_ nv.BackupBackend  = (*Dir)(nil)
	_ nv.BatchBackend   = (*Dir)(nil)
	_ nv.ListBackend    = (*Dir)(nil)
	_ nv.HolderBackend  = (*Dir)(nil)
)

// Dir is a directory with the state of a TPM, an nv.Backend. Its methods take no
// turns by themselves: nv.Store sees to that.
type Dir struct {
	o         nv.Options
	path      string // for messages, and Moved
	permanent string // name of the permanent state, the only one with a backup
	mode      uint32 // of files that we write
	owner     uint32 // of the directory
	group     uint32 // of the directory

	fd      int // the directory
	spare   int // gives its slot to an open that finds no other; or -1
	lock    int // .lock while we hold it; or -1
	locked  bool
	swapped bool // Options.Look: the backup stands for the state

	// foreseen are the files that recover would put in the place of others,
	// under Options.Look and ReadOnly; "" stands for none.
	foreseen map[string]string

	seen map[string]identity

	// What was warned about.
	widened, noFlock, noOFD, noChmod bool

	fresh  *newFile // what a new file looks like here; nil until somebody asks
	remote bool     // nv.Remote, of a directory that is only read
}

// Open opens the directory at path, which must exist. It creates nothing.
func Open(path string, o nv.Options) (*Dir, error) {
	if path == "" {
		return nil, errors.New("the path of the state directory is empty")
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	d := &Dir{o: o, path: path, permanent: o.Prefix + "permall", fd: fd, spare: -1, lock: -1, seen: map[string]identity{}}
	if d.o.Warn == nil {
		d.o.Warn = func(string, ...any) {}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("stat state directory: %w", err)
	}
	d.owner, d.group = st.Uid, st.Gid
	d.mode = uint32(o.Mode.Perm())
	if !o.ModeExplicit {
		if d.mode == 0 {
			d.mode = DefaultMode
		}
		d.mode = d.mode&^umask() | 0o600 // the owner must be able to read it again
	}
	if o.Look || o.ReadOnly {
		d.remote = nv.Remote(fd)
		// Who looks without the lock is to see the items as they will be, too.
		// What is wrong with a journal, Lock says.
		_ = d.foresee()
	}
	d.reserveDescriptor()
	return d, nil
}

// warnOnce logs a warning unless given says that this was done.
func (d *Dir) warnOnce(given *bool, format string, args ...any) {
	if !*given {
		*given = true
		d.o.Warn(format, args...)
	}
}

// Moved says whether the path of the directory leads to another one, or nowhere.
func (d *Dir) Moved() bool {
	var open, named unix.Stat_t
	if err := unix.Fstat(d.fd, &open); err != nil {
		return false
	}
	err := retry(func() error { return unix.Stat(d.path, &named) })
	if err == unix.ENOENT || open.Nlink == 0 { // removed; a bind mount still leads there
		return true
	}
	return err == nil && (open.Dev != named.Dev || open.Ino != named.Ino)
}

// Close unlocks and closes the directory.
func (d *Dir) Close() error {
	if d.fd < 0 {
		return nil
	}
	err := d.Unlock()
	if d.spare >= 0 {
		unix.Close(d.spare)
	}
	unix.Close(d.fd) // nothing was written through it
	d.fd, d.spare = -1, -1
	return err
}

// umask returns the file mode creation mask of the process. The only system
// call for it also changes it, which a file made by another thread at that
// moment would feel; so /proc is asked first.
//
// Source: proc_pid_status(5).
func umask() uint32 {
	var start [256]byte // the line stands behind the name, which is short
	n := 0
	if fd, err := unix.Open("/proc/self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		n, _ = unix.Read(fd, start[:])
		unix.Close(fd)
	}
	for line := range strings.Lines(string(start[:max(n, 0)])) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok && strings.HasSuffix(v, "\n") {
			if m, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(m)
			}
		}
	}
	m := unix.Umask(0o077)
	unix.Umask(m)
	return uint32(m)
}

// reserveDescriptor reserves a descriptor for when the process runs out of them.
func (d *Dir) reserveDescriptor() {
	if d.spare < 0 {
		d.spare, _ = unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0) // -1 on error
	}
}

// openat opens name in the directory. If the process or the system is out of descriptors
// it uses the reserved one, because clients of the emulator can use up the others, and that
// must not fail a write. reserveDescriptor reserves a new one once the file is closed.
func (d *Dir) openat(name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(d.fd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		switch {
		case err == unix.EINTR:
		case (err == unix.EMFILE || err == unix.ENFILE) && d.spare >= 0:
			unix.Close(d.spare)
			d.spare = -1
		case err == unix.ELOOP:
			return -1, fmt.Errorf("%q is a symbolic link, which is never followed: %w", name, err)
		case err == unix.EACCES || err == unix.EPERM:
			return -1, fmt.Errorf("open %q: %w%s", name, err, d.rights(name))
		case err != nil:
			return -1, fmt.Errorf("open %q: %w", name, err)
		default:
			return fd, nil
		}
	}
}

// checkName refuses what is not the name of a file in the directory.
func checkName(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name of a state file", name)
	}
	return nil
}

// checkWrite is checkName before something is changed.
func (d *Dir) checkWrite(name string) error {
	switch {
	case d.o.Look:
		return nv.ErrLook
	case d.o.ReadOnly:
		return nv.ErrReadOnly
	}
	return checkName(name)
}

// unlink removes name, which is never followed.
func (d *Dir) unlink(name string) error {
	if err := retry(func() error { return unix.Unlinkat(d.fd, name, 0) }); err != nil {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	return nil
}

// rename makes newName what oldName is; flags are those of renameat2.
func (d *Dir) rename(oldName, newName string, flags uint) error {
	var err error
	if flags == 0 {
		err = unix.Renameat(d.fd, oldName, d.fd, newName)
	} else {
		err = unix.Renameat2(d.fd, oldName, d.fd, newName, flags)
	}
	if err != nil {
		return fmt.Errorf("rename %q to %q: %w", oldName, newName, err)
	}
	return nil
}

// retry calls f until it is not interrupted by a signal.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
