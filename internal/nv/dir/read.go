package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// identity tells whether a file is still the same: nobody can replace or change
// it without another inode or time.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func identify(st *unix.Stat_t) identity {
	return identity{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// stat looks at name without following it.
func (d *Dir) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return st, fmt.Errorf("stat %q: %w", name, err)
	}
	return st, nil
}

// Unchanged tells whether the file is still the very one that d has last loaded
// or stored.
func (d *Dir) Unchanged(name string) bool {
	want, ok := d.seen[name]
	if !ok {
		return false
	}
	st, err := d.stat(name)
	return err == nil && identify(&st) == want
}

// errReplaced means that the file was replaced between open and stat.
var errReplaced = errors.New("replaced by another process while it was opened")

// Load returns the whole file. It fails with fs.ErrNotExist if there is none,
// unless there is a backup of it: that is then put in its place if backups are
// on, and an error if they are off.
func (d *Dir) Load(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	name, err := d.lookAt(name)
	if err != nil {
		return nil, err
	}
	settled := d.seen[name]
	delete(d.seen, name)
	defer d.reserveDescriptor()
	b, err := d.load(name, settled)
	for range 3 { // another process stores: what it puts there is as good
		if !errors.Is(err, errReplaced) {
			break
		}
		b, err = d.load(name, settled)
	}
	if name == d.permanent && errors.Is(err, fs.ErrNotExist) {
		return d.loadBackup(name, err)
	}
	return b, err
}

// openRead opens name to read it, whatever it is.
func (d *Dir) openRead(name string) (fd int, st unix.Stat_t, err error) {
	// Without O_NONBLOCK a fifo would keep us here.
	if fd, err = d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0); err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, fmt.Errorf("stat %q: %w", name, err)
	}
	return fd, st, nil
}

// load returns the whole file. It syncs the file unless that is settled, the one
// that d has loaded or stored last: a client may ask for a state again and again.
func (d *Dir) load(name string, settled identity) ([]byte, error) {
	fd, st, err := d.openRead(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := d.checkState(name, &st); err != nil {
		return nil, err
	}
	b, err := readAll(fd, int(st.Size))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	if d.o.ReadOnly {
		return b, nil
	}
	if err := d.fixMode(fd, &st); err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	if d.o.Look {
		return b, nil
	}
	if identify(&st) != settled {
		if err := d.settle(fd, name); err != nil {
			return nil, err
		}
	}
	d.seen[name] = identify(&st)
	return b, nil
}

// Stat returns the size of the file, which is not opened. A permanent state that
// is missing is that of its backup if Load would put that in its place.
func (d *Dir) Stat(name string) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	name, err := d.lookAt(name)
	if err != nil {
		return 0, err
	}
	st, err := d.stat(name)
	if name == d.permanent && errors.Is(err, fs.ErrNotExist) {
		if name, err = d.backupFor(name, err); err == nil {
			st, err = d.stat(name)
		}
	}
	if err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, fmt.Errorf("%q is not a regular file", name)
	}
	return st.Size, nil
}

// settle makes sure that what was just read survives a power cut. The process that
// wrote it may have died before it had synced, or be one that never does; whoever
// acts on what it wrote must not lose it afterwards.
func (d *Dir) settle(fd int, name string) error {
	if err := d.sync(fd, name); err != nil {
		return err
	}
	return d.sync(d.fd, d.path)
}

// checkState refuses what no emulator has written: another type of file, a
// second link (a name for a file outside), a stranger's file, one of a size
// that no state has.
func (d *Dir) checkState(name string, st *unix.Stat_t) error {
	if err := d.checkType(name, st); err != nil {
		return err
	}
	if euid := os.Geteuid(); st.Uid != 0 && st.Uid != uint32(euid) && st.Uid != d.owner && !d.givesOwner(st.Uid) {
		return nv.Of(nv.ErrOwner, fmt.Errorf("%q belongs to user %d; expected user %d, who runs this process, root or the owner of the directory", name, st.Uid, euid))
	}
	switch {
	case st.Size == 0:
		return fmt.Errorf("%q is empty, the state in it was lost: %w", name, nv.ErrDamaged)
	case st.Size > nv.MaxItem:
		return fmt.Errorf("%q has %d bytes, more than the %d that any state has: %w", name, st.Size, nv.MaxItem, nv.ErrDamaged)
	}
	return nil
}

// checkType refuses what is not a plain file with one name. Some file systems do
// not count links: there a file may have the number that every new one has.
func (d *Dir) checkType(name string, st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%q is not a regular file", name)
	case st.Nlink == 1 || d.givesLinks(uint64(st.Nlink)):
		return nil
	case st.Nlink == 0:
		return fmt.Errorf("%q: %w", name, errReplaced)
	}
	return nv.Of(nv.ErrLinks, fmt.Errorf("%q has %d links; a state file or lock file must have one", name, st.Nlink))
}

// readAll reads size bytes, which must be all there are.
func readAll(fd, size int) ([]byte, error) {
	b := make([]byte, size+1) // one more, to see a file that grows
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	if n != size {
		return nil, fmt.Errorf("read %d bytes, expected %d", n, size)
	}
	return b[:size], nil
}

// fixMode gives the file the permissions that were asked for, or makes a
// read-only one writable. st is up to date afterwards.
//
// Compat: swtpm does so when it loads a file, with exactly these modes.
func (d *Dir) fixMode(fd int, st *unix.Stat_t) error {
	mode := uint32(st.Mode & 0o7777)
	want := mode
	switch {
	case d.o.ModeExplicit:
		want = d.mode
	case mode&unix.S_IWUSR == 0:
		want = DefaultMode
	}
	if d.o.Look && want != mode {
		return mayChmod(st, want)
	}
	if want != mode {
		if err := d.chmod(fd, want, false); err != nil {
			return err
		}
		if err := unix.Fstat(fd, st); err != nil {
			return fmt.Errorf("stat: %w", err)
		}
	}
	if want&^DefaultMode&0o077 != 0 && !d.widened {
		d.widened = true
		d.o.Warn("state files in %q are open to others: mode %#o, wider than %#o", d.path, want, DefaultMode)
	}
	return nil
}
