package dir

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// backupName returns the name of the previous state.
func backupName(name string) string { return name + ".bak" }

// swapName returns the name of the state while it is swapped with its backup on a file
// system that cannot exchange two names.
func swapName(name string) string { return name + ".tmp" }

// noExchange reports whether err means that the kernel or the file system cannot
// exchange two names.
func noExchange(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)
}

// replaceWithBackup renames temp to name and the previous file to the backup. A file
// called name exists at each moment: the two are exchanged, and then the old one is
// renamed to the backup. If that last step fails, the exchange is undone.
func (d *Dir) replaceWithBackup(temp, name string) error {
	err := d.files.RenameAt(temp, name, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the first one
		return d.files.RenameAt(temp, name, 0)
	case err != nil && noExchange(err):
		return d.replaceInTwo(temp, name)
	case err != nil:
		return err
	}
	if err := d.files.RenameAt(temp, backupName(name), 0); err != nil {
		return errors.Join(err, d.files.RenameAt(temp, name, unix.RENAME_EXCHANGE))
	}
	return nil
}

// replaceInTwo does the same as replaceWithBackup, in two steps, on a file system that cannot
// exchange two names. If the process is killed between them, the next start finds only the backup.
func (d *Dir) replaceInTwo(temp, name string) error {
	err := d.files.RenameAt(name, backupName(name), 0)
	had := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.files.RenameAt(temp, name, 0); err != nil {
		if had {
			err = errors.Join(err, d.files.RenameAt(backupName(name), name, 0))
		}
		return err
	}
	return nil
}

// backupFor returns the name of the backup of a state that does not exist. A backup
// without a state means that a store was interrupted, and that the TPM is not new.
// If no backup exists, it returns the error missing.
func (d *Dir) backupFor(name string, missing error) (string, error) {
	bak := backupName(name)
	_, err := d.files.Stat(bak)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := d.files.Stat(swapName(name)); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%q is missing, and %q exists, its name during a swap with its backup; rename it back, or remove it for a new TPM", name, swapName(name))
		}
		return "", missing
	case err != nil:
		return "", err
	case !d.o.Backup:
		return "", fmt.Errorf("%q is missing, and its backup %q exists; start with backup, or rename the backup, or remove it for a new TPM", name, bak)
	}
	return bak, nil
}

// loadBackup replaces a state that does not exist by its backup, and returns the content. If no
// backup exists, it returns the error missing.
func (d *Dir) loadBackup(name string, missing error) ([]byte, error) {
	bak, err := d.backupFor(name, missing)
	if err != nil {
		return nil, err
	}
	st, err := d.files.Stat(bak)
	if err != nil {
		return nil, err
	}
	if err := d.checkState(bak, &st); err != nil {
		return nil, err
	}
	if d.o.DryRun || d.o.ReadOnly {
		return d.load(bak, identity{})
	}
	if err := d.files.RenameAt(bak, name, unix.RENAME_NOREPLACE); err != nil {
		if !noExchange(err) {
			return nil, err
		}
		if err := d.files.RenameAt(bak, name, 0); err != nil {
			return nil, err
		}
	}
	if err := d.syncDir(name); err != nil {
		return nil, err
	}
	d.o.Warn("%q was missing and was replaced by its backup %q", name, bak)
	return d.load(name, identity{})
}

// SwapBackup exchanges the permanent state and its backup. It fails with
// errors.ErrUnsupported if backups are off, and with fs.ErrNotExist if one of the two
// does not exist.
func (d *Dir) SwapBackup() error {
	if d.o.ReadOnly {
		return nv.ErrReadOnly
	}
	if !d.o.Backup {
		return fmt.Errorf("backups are off: %w", errors.ErrUnsupported)
	}
	name := d.permanent
	bak := backupName(name)
	if d.o.DryRun {
		return d.swapDryRun(name, bak)
	}
	delete(d.seen, name)
	err := d.files.RenameAt(name, bak, unix.RENAME_EXCHANGE)
	if err != nil && noExchange(err) {
		err = d.swapInThree(name, bak)
	}
	if err != nil {
		return err
	}
	return d.syncDir(name)
}

// swapInThree exchanges the state and its backup, in three steps, on a file system that cannot
// exchange two names.
func (d *Dir) swapInThree(name, bak string) error {
	if _, err := d.files.Stat(bak); err != nil {
		return err
	}
	tmp := swapName(name)
	if err := d.files.RenameAt(name, tmp, 0); err != nil {
		return err
	}
	if err := d.files.RenameAt(bak, name, 0); err != nil {
		return errors.Join(err, d.files.RenameAt(tmp, name, 0))
	}
	return d.files.RenameAt(tmp, bak, 0)
}
