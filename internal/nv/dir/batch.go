package dir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// stagedName returns the name of an item's next content while several items are changed
// at once.
func stagedName(name string) string { return "NEW" + strings.TrimPrefix(name, "tpm") }

// journalName returns the name of the journal of such a change.
func (d *Dir) journalName() string { return stagedName(d.o.Prefix) + "journal" }

// Apply changes several files at once; see nv.BatchBackend. No system call changes two
// names, so it has these steps:
//
//  1. It writes each new content to a file of its own, NEW2-00.*, and syncs it.
//  2. It writes a journal of the changes. When the journal has its name,
//     NEW2-00.journal, and that is synced, the change is decided.
//  3. It renames the files to the names of the items, in the order of the changes,
//     removes old items, and syncs that.
//  4. It removes the journal.
//
// The next process that locks the directory removes staged files without a journal, and
// completes a journal; see recover. All steps but the third leave the items unchanged.
// A process that is killed in the third leaves old and new items, which only a program
// that does not know the journal could see; with a single change that cannot happen.
//
// New files get the permissions of the ones they replace. Files that interrupted stores
// have left are removed first: they may hold the old state.
func (d *Dir) Apply(changes []nv.Change) error {
	if len(changes) == 0 || changes[0].Blob == nil {
		return errors.New("a batch must begin with an item that is stored")
	}
	if !d.locked {
		return errors.New("several items can be changed only under the lock")
	}
	defer d.files.ReserveFD()
	if err := d.clean(changes); err != nil {
		return err
	}
	j, err := d.stage(changes)
	if err != nil {
		return errors.Join(err, d.unstage(j))
	}
	if err := d.files.Sync(); err != nil {
		return errors.Join(err, d.unstage(j))
	}
	if err := d.files.RenameAt(d.journalName()+".tmp", d.journalName(), 0); err != nil {
		return errors.Join(err, d.unstage(j))
	}
	if err := d.syncDir(d.journalName()); err != nil {
		return fmt.Errorf("the change is decided, but may not survive a power cut; the next lock of the state completes it: %w", err)
	}
	return d.finish(j)
}

// clean removes the files that interrupted stores and batches have left.
func (d *Dir) clean(changes []nv.Change) error {
	names := []string{d.journalName() + ".tmp"}
	for _, c := range changes {
		if err := d.checkWrite(c.Name); err != nil {
			return err
		}
		names = append(names, stagedName(c.Name), tempName(c.Name))
	}
	if _, err := d.files.Stat(swapName(d.permanent)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q exists, the name of the state during a swap with its backup; rename it to %q if that is missing, else remove it",
			swapName(d.permanent), backupName(d.permanent))
	}
	return d.removeAll(names)
}

// removeAll removes the files; missing ones are no error.
func (d *Dir) removeAll(names []string) error {
	var errs []error
	for _, name := range names {
		if err := d.files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stage writes and syncs the new contents and the journal, which does not have its final
// name yet.
func (d *Dir) stage(changes []nv.Change) (journal, error) {
	var j journal
	for _, c := range changes {
		delete(d.seen, c.Name)
		old, mode, err := d.digest(c.Name)
		if err != nil {
			return j, err
		}
		if c.Blob == nil {
			if old != noDigest {
				j = append(j, entry{name: c.Name, old: old, next: noDigest})
			}
			continue
		}
		sum := sha256.Sum256(c.Blob)
		j = append(j, entry{name: c.Name, old: old, next: hex.EncodeToString(sum[:])})
		if _, err := d.files.WriteNew(stagedName(c.Name), c.Blob, d.newFile(mode)); err != nil {
			return j, err
		}
	}
	_, err := d.files.WriteNew(d.journalName()+".tmp", j.encode(), d.newFile(d.mode))
	return j, err
}

// unstage removes the files that stage has written.
func (d *Dir) unstage(j journal) error {
	names := []string{d.journalName() + ".tmp"}
	for _, e := range j {
		if e.next != noDigest {
			names = append(names, stagedName(e.name))
		}
	}
	return d.removeAll(names)
}

// digest returns the SHA-256 of a file in hex digits, noDigest if the file does not
// exist, and the permissions of a file that replaces it.
func (d *Dir) digest(name string) (sum string, mode uint32, err error) {
	fd, st, err := d.files.OpenStat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return noDigest, d.mode, nil
	}
	if err != nil {
		return "", 0, err
	}
	defer unix.Close(fd)
	if err := d.checkState(name, &st); err != nil && !errors.Is(err, nv.ErrDamaged) {
		return "", 0, err
	}
	if st.Size > nv.MaxItem {
		return "", 0, fmt.Errorf("%q has %d bytes: %w", name, st.Size, nv.ErrDamaged)
	}
	b, err := d.files.ReadExact(fd, name, st.Size)
	if err != nil {
		return "", 0, err
	}
	mode = d.mode
	if !d.o.ModeExplicit {
		mode = st.Mode&0o777 | unix.S_IWUSR
	}
	h := sha256.Sum256(b)
	clear(b)
	return hex.EncodeToString(h[:]), mode, nil
}

// recover completes the change of several files that a journal describes. Without a
// journal the items are unchanged, and staged files are removed. A directory that is open for
// reading is not changed, but its items are read as if the change were complete.
func (d *Dir) recover() error {
	if d.o.ReadOnly {
		return d.planRecovery()
	}
	j, err := d.loadJournal()
	if err != nil {
		return err
	}
	if len(j) == 0 {
		return d.dropStaged()
	}
	d.o.Warn("change of %d state files in %q was interrupted; completing it", len(j), d.path)
	return d.finish(j)
}

// dropStaged removes the files of a batch that was interrupted before it was decided:
// they may hold the state without its key. Without the lock they may belong to a batch
// that another process is running.
func (d *Dir) dropStaged() error {
	if !d.o.Lock {
		return nil
	}
	names := []string{d.journalName() + ".tmp"}
	for _, item := range []string{nv.Permanent, nv.Volatile, nv.Savestate, nv.Backup} {
		names = append(names, stagedName(d.o.Prefix+item))
	}
	return d.removeAll(names)
}

// planRecovery records in d.recovery what recover would do.
func (d *Dir) planRecovery() error {
	d.recovery = nil
	j, err := d.loadJournal()
	if err != nil {
		return err
	}
	planned := map[string]string{}
	for i, e := range j {
		next, err := d.next(e)
		switch {
		case err != nil:
			return err
		case next == overtaken && i == 0:
			return nil
		case next == rename:
			planned[e.name] = stagedName(e.name)
		case next == remove:
			planned[e.name] = ""
		}
	}
	d.recovery = planned
	return nil
}

// loadJournal returns the journal, an empty one if it does not exist.
func (d *Dir) loadJournal() (journal, error) {
	b, err := d.readJournal()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	j, err := decodeJournal(d.o.Prefix, b)
	if err != nil {
		return nil, fmt.Errorf("journal %q of an interrupted change: %w; restore the state from a backup, or remove the file if the state is complete", d.journalName(), err)
	}
	return j, nil
}

// readJournal returns the journal. Its error is fs.ErrNotExist if it does not exist.
func (d *Dir) readJournal() ([]byte, error) {
	name := d.journalName()
	fd, st, err := d.files.OpenStat(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := d.checkState(name, &st); err != nil {
		return nil, err
	}
	return d.files.ReadExact(fd, name, st.Size)
}

// finish makes those changes of a decided journal that are not made yet.
//
// It changes only files that are still as the journal describes them: a program that does
// not know the journal may have run since then, and its state is newer. If that is so for
// the first file, finish changes nothing.
func (d *Dir) finish(j journal) error {
	for i, e := range j {
		next, err := d.next(e)
		if err == nil {
			err = d.do(next, e.name)
		}
		if err != nil {
			return fmt.Errorf("the change of several files is incomplete; the next lock of the state completes it: %w", err)
		}
		if next == overtaken && i == 0 {
			d.o.Warn("%q was changed by another program meanwhile; the interrupted change is dropped", e.name)
			break
		}
		if next == overtaken {
			d.o.Warn("%q was changed by another program meanwhile and is not replaced", e.name)
		}
	}
	if err := d.unstage(j); err != nil {
		return err
	}
	if err := d.syncDir(d.permanent); err != nil {
		return err
	}
	if err := d.files.Remove(d.journalName()); err != nil {
		return err
	}
	return d.syncDir(d.journalName())
}

// step is the next step for one entry of a journal.
type step uint8

const (
	done      step = iota
	rename         // the staged file to the name of the item
	remove         // the item
	overtaken      // nothing: another program has changed the item
)

// next returns the next step for e. If another program has changed the file after it was
// replaced, the staged file no longer exists, and e is done.
func (d *Dir) next(e entry) (step, error) {
	now, _, err := d.digest(e.name)
	switch {
	case err != nil:
		return done, err
	case now == e.next:
		return done, nil
	case now != e.old:
		if _, err := d.files.Stat(stagedName(e.name)); e.next != noDigest && errors.Is(err, fs.ErrNotExist) {
			return done, nil
		}
		return overtaken, nil
	case e.next == noDigest:
		return remove, nil
	}
	staged, _, err := d.digest(stagedName(e.name))
	if err == nil && staged != e.next {
		err = fmt.Errorf("%q, the next content of %q, is missing or damaged; restore it, or remove %q to keep the old state", stagedName(e.name), e.name, d.journalName())
	}
	return rename, err
}

// do takes step s for the item name.
func (d *Dir) do(s step, name string) error {
	switch s {
	case rename:
		delete(d.seen, name)
		return d.files.RenameAt(stagedName(name), name, 0)
	case remove:
		delete(d.seen, name)
		return d.files.Remove(name)
	}
	return nil
}
