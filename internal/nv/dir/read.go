package dir

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Unchanged reports whether the file is still the one that d last loaded or stored.
func (d *Dir) Unchanged(name string) bool {
	want, ok := d.seen[name]
	if !ok {
		return false
	}
	st, err := d.files.Stat(name)
	return err == nil && want.is(&st)
}

// Load returns the whole file. It fails with fs.ErrNotExist if neither the file nor a
// backup of it exists. A backup without the file replaces it if backups are on, and is an
// error if they are off.
func (d *Dir) Load(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	name, err := d.fileOf(name)
	if err != nil {
		return nil, err
	}
	synced := d.seen[name]
	delete(d.seen, name)
	defer d.files.ReserveFD()
	b, err := safefile.RetryReplaced(func() ([]byte, error) { return d.load(name, synced) })
	if name == d.permanent && errors.Is(err, fs.ErrNotExist) {
		return d.loadBackup(name, err)
	}
	return b, err
}

// load returns the whole file. It syncs the file, or leaves that to
// SyncDeferred after Defer. A file whose identity is synced needs no sync: a client may request a state many times.
func (d *Dir) load(name string, synced identity) ([]byte, error) {
	fd, st, err := d.files.OpenStat(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := d.checkState(name, &st); err != nil {
		return nil, err
	}
	b, err := d.files.ReadExact(fd, name, st.Size)
	if err != nil {
		return nil, err
	}
	if d.o.ReadOnly {
		return b, nil
	}
	if err := d.fixMode(fd, name, &st); err != nil {
		return nil, err
	}
	if d.o.DryRun {
		return b, nil
	}
	if !synced.is(&st) && d.deferred {
		d.unsynced[name] = identify(&st)
		return b, nil
	}
	if !synced.is(&st) {
		if err := d.syncLoaded(fd, name); err != nil {
			return nil, err
		}
	}
	d.seen[name] = identify(&st)
	return b, nil
}

// Stat returns the size of the file without opening it. If the permanent state does not
// exist and Load would replace it by its backup, it is the size of the backup.
func (d *Dir) Stat(name string) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	name, err := d.fileOf(name)
	if err != nil {
		return 0, err
	}
	st, err := d.files.Stat(name)
	if name == d.permanent && errors.Is(err, fs.ErrNotExist) {
		if name, err = d.backupFor(name, err); err == nil {
			st, err = d.files.Stat(name)
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

// syncLoaded makes sure that the file that was just read survives a power cut. The
// process that wrote it may have been killed before it synced, or never syncs; a process
// that acts on the content must not lose it afterwards.
func (d *Dir) syncLoaded(fd int, name string) error {
	if err := d.files.SyncFile(fd, name); err != nil {
		return err
	}
	return d.files.Sync()
}

// Defer makes Load not sync the file. With backups Load syncs it, because the next Store makes it the
// backup.
func (d *Dir) Defer() {
	if !d.o.Backup {
		d.deferred, d.unsynced = true, map[string]identity{}
	}
}

// SyncDeferred syncs the files that were loaded since Defer, unless a store has removed them, or has replaced
// and synced them.
func (d *Dir) SyncDeferred() error {
	for name, loaded := range d.unsynced {
		if err := d.syncDeferred(name, loaded); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		delete(d.unsynced, name)
	}
	d.deferred = false
	return nil
}

// syncDeferred syncs a file. If it is not the one that was loaded, a store has replaced it, and could not sync
// the directory.
func (d *Dir) syncDeferred(name string, loaded identity) error {
	fd, st, err := d.files.OpenStat(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := d.syncLoaded(fd, name); err != nil {
		return err
	}
	if loaded.is(&st) {
		d.seen[name] = loaded
	}
	return nil
}

// checkState fails unless st is a file that safefile trusts, with a size that a state
// may have.
func (d *Dir) checkState(name string, st *unix.Stat_t) error {
	if err := d.files.Check(name, st); err != nil {
		return err
	}
	switch {
	case st.Size == 0:
		return fmt.Errorf("%q is empty, the state in it was lost: %w", name, nv.ErrDamaged)
	case st.Size > nv.MaxItem:
		return fmt.Errorf("%q has %d bytes; a state has at most %d: %w", name, st.Size, nv.MaxItem, nv.ErrDamaged)
	}
	return nil
}

// fixMode gives the file the configured permissions, or makes a read-only one writable.
// It updates st.
//
// Compat: C-243: swtpm does so when it loads a file, with exactly these modes.
func (d *Dir) fixMode(fd int, name string, st *unix.Stat_t) error {
	mode := uint32(st.Mode & 0o7777)
	want := mode
	switch {
	case d.o.ModeExplicit:
		want = d.mode
	case mode&unix.S_IWUSR == 0:
		want = DefaultMode
	}
	if d.o.DryRun && want != mode {
		return mayChmod(name, st, want)
	}
	if want != mode {
		if err := d.files.Chmod(fd, name, want, false); err != nil {
			return err
		}
		if err := unix.Fstat(fd, st); err != nil {
			return fmt.Errorf("stat %q: %w", name, err)
		}
	}
	if want&^DefaultMode&0o077 != 0 && !d.widened {
		d.widened = true
		d.o.Warn("state files in %q are accessible to others: mode %#o, wider than %#o", d.path, want, DefaultMode)
	}
	return nil
}
