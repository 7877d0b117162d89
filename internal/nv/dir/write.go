package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// tempName returns the name under which a file is written before it is renamed to name.
func tempName(name string) string { return "TMP" + strings.TrimPrefix(name, "tpm") }

// Store writes blob under another name, syncs it, renames it to name, and syncs the
// directory before it returns nil. No other order is safe: a rename that reaches the disk
// before the bytes leaves an empty file after a power cut, and a rename that does not
// reach it leaves the old state.
//
// On error the old state remains, and the file with the other name is removed; but if
// only the last sync fails, the new state is in place and may not survive a power cut. No
// sync is repeated: after a failed one the kernel drops the bytes that it has not
// written, and a second one would report success.
//
// If it fails before the rename, the next Load does not sync the old file again: a file system
// that is read-only because of an error refuses every sync, but can be read.
//
// Without a backup it makes seven system calls: openat, write, fsync, fstat, close,
// renameat, and fsync of the directory.
func (d *Dir) Store(name string, blob []byte) error {
	if err := d.checkWrite(name); err != nil {
		return err
	}
	defer d.files.ReserveFD()
	temp := tempName(name)
	st, err := d.files.Replace(temp, blob, d.newFile(d.mode), func() error {
		delete(d.seen, name)
		return d.replace(temp, name)
	})
	if errors.Is(err, fs.ErrNotExist) && d.files.Moved() {
		return safefile.WithKind(nv.ErrRemoved, err)
	}
	if err != nil {
		return err
	}
	if err := d.syncDir(name); err != nil {
		return safefile.WithKind(nv.ErrUnsynced, fmt.Errorf("%q is written, but may not survive a power cut: %w", name, err))
	}
	d.seen[name] = renamed(&st)
	delete(d.unsynced, name)
	return nil
}

// newFile returns the settings for writing and syncing a file with exactly this mode.
func (d *Dir) newFile(mode uint32) safefile.NewFile {
	return safefile.NewFile{Mode: fs.FileMode(mode), Exact: true, Sync: true}
}

// replace renames temp to name, and keeps a backup if that is wanted.
func (d *Dir) replace(temp, name string) error {
	if d.o.Backup && name == d.permanent {
		return d.replaceWithBackup(temp, name)
	}
	return d.files.RenameAt(temp, name, 0)
}

// syncDir waits until the names in the directory are on the disk.
func (d *Dir) syncDir(name string) error {
	err := d.files.Sync()
	if err != nil {
		d.o.Warn("%q in %q may not survive a power cut: %v", name, d.path, err)
	}
	return err
}

// Delete removes the file, and its backup if backups are on, so that the backup does not
// replace it. It fails with fs.ErrNotExist if the file does not exist.
func (d *Dir) Delete(name string) error {
	if err := d.checkWrite(name); err != nil {
		return err
	}
	delete(d.seen, name)
	if d.o.Backup && name == d.permanent {
		if err := d.files.Remove(backupName(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.files.Remove(name); err != nil {
		return err
	}
	if err := d.syncDir(name); err != nil {
		return safefile.WithKind(nv.ErrUnsynced, err)
	}
	return nil
}

// identity identifies the content of a file: replacing or changing the file changes the
// inode or a time.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func identify(st *unix.Stat_t) identity {
	return identity{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// renamed returns the identity of a file that was renamed after st was taken. The
// rename has changed its ctime, which a store does not read again.
func renamed(st *unix.Stat_t) identity {
	id := identify(st)
	id.ctime = unix.Timespec{}
	return id
}

// is reports whether st describes the file that id was taken from.
func (id identity) is(st *unix.Stat_t) bool {
	now := identify(st)
	if id.ctime == (unix.Timespec{}) {
		now.ctime = unix.Timespec{}
	}
	return now == id
}
