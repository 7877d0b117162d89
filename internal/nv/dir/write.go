package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// tempName is the name under which an item is written.
func tempName(name string) string { return "TMP" + strings.TrimPrefix(name, "tpm") }

// Store writes blob under another name, syncs it, renames it to name, and syncs
// the directory. Only then it returns nil, and only in this order nothing is
// lost: a rename that reaches the disk before the bytes leaves an empty file
// after a power cut, and one that never reaches it the old state.
//
// On error the file under the other name is removed and the old state is still
// there; but if only the last sync fails, the new state is there and may not
// survive. No sync is tried twice: after a failed one the kernel forgets what
// it has not written, and the second would say that all is well.
func (d *Dir) Store(name string, blob []byte) error {
	if err := d.checkWrite(name); err != nil {
		return err
	}
	delete(d.seen, name)
	defer d.reserveDescriptor()
	temp := tempName(name)
	// What is there was left by a process that died; it is no state. The
	// name may also be a trap: O_EXCL makes a file of our own or fails.
	if err := d.unlink(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st, err := d.writeTemp(temp, blob, d.mode)
	if err == nil {
		err = d.replace(temp, name)
	}
	if err != nil {
		if uerr := d.unlink(temp); uerr != nil && !errors.Is(uerr, fs.ErrNotExist) {
			err = errors.Join(err, uerr)
		}
		return err
	}
	if err := d.syncDir(name); err != nil {
		return nv.Of(nv.ErrUnsynced, fmt.Errorf("%q is written, but may not survive a power cut: %w", name, err))
	}
	// A rename changes the time of the file, so look again, but only at ours.
	if now, err := d.stat(name); err == nil && now.Dev == st.Dev && now.Ino == st.Ino {
		d.seen[name] = identify(&now)
	}
	return nil
}

// writeTemp makes the file temp with blob in it and the permissions mode, and
// syncs it.
func (d *Dir) writeTemp(temp string, blob []byte, mode uint32) (st unix.Stat_t, err error) {
	fd, err := d.openat(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return st, err
	}
	if err := d.fill(fd, temp, blob, mode, &st); err != nil {
		unix.Close(fd)
		return st, err
	}
	// NFS and quotas report here. After EINTR it is closed as well.
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return st, fmt.Errorf("close %q: %w", temp, err)
	}
	return st, nil
}

// fill writes blob to the new file behind fd, and syncs it.
func (d *Dir) fill(fd int, temp string, blob []byte, mode uint32, st *unix.Stat_t) error {
	if err := d.adopt(fd, temp); err != nil {
		return err
	}
	if err := d.chmod(fd, mode, true); err != nil {
		return fmt.Errorf("%q: %w", temp, err)
	}
	for b := blob; len(b) > 0; {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("write %q: %w", temp, err)
		case n == 0:
			return fmt.Errorf("write %q: no byte was taken", temp)
		}
		b = b[n:]
	}
	if err := d.sync(fd, temp); err != nil {
		return err
	}
	if err := unix.Fstat(fd, st); err != nil {
		return fmt.Errorf("stat %q: %w", temp, err)
	}
	return nil
}

// adopt gives a new file to the owner of the directory if Options.Adopt says so.
func (d *Dir) adopt(fd int, name string) error {
	if !d.o.Adopt || os.Geteuid() != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Uid != 0 {
		return nil // the file system decides about the owner, as NFS with root_squash does
	}
	if err := unix.Fchown(fd, int(d.owner), int(d.group)); err != nil {
		return fmt.Errorf("give %q to user %d: %w", name, d.owner, err)
	}
	return nil
}

// replace makes temp the file name.
func (d *Dir) replace(temp, name string) error {
	if d.o.Backup && name == d.permanent {
		return d.replaceKeeping(temp, name)
	}
	return d.rename(temp, name, 0)
}

// sync waits until what was written through fd, to the file or directory name,
// is on the disk.
func (d *Dir) sync(fd int, name string) error {
	if d.o.Relaxed {
		return nil
	}
	start := time.Now()
	if err := retry(func() error { return unix.Fsync(fd) }); err != nil {
		err = fmt.Errorf("sync %q: %w", name, err)
		if nv.CannotSync(err) {
			err = nv.Of(nv.ErrNoSync, err)
		}
		return err
	}
	if took := time.Since(start); took > nv.SlowSync {
		d.o.Warn("the sync of %q took %d ms; the disk is slow, and guests may time out", name, took.Milliseconds())
	}
	return nil
}

// syncDir waits until the names in the directory are on the disk.
func (d *Dir) syncDir(name string) error {
	err := d.sync(d.fd, d.path)
	if err != nil {
		d.o.Warn("%q in %q may not survive a power cut: %v", name, d.path, err)
	}
	return err
}

// Delete removes the file, and its backup if backups are on, so that it does
// not come back. It fails with fs.ErrNotExist if there is none.
func (d *Dir) Delete(name string) error {
	if err := d.checkWrite(name); err != nil {
		return err
	}
	delete(d.seen, name)
	if d.o.Backup && name == d.permanent {
		if err := d.unlink(backupName(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.unlink(name); err != nil {
		return err
	}
	if err := d.syncDir(name); err != nil {
		return nv.Of(nv.ErrUnsynced, err)
	}
	return nil
}
