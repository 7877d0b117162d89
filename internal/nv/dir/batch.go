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

// stagedName is the name of the next content of an item while several are
// changed at once.
func stagedName(name string) string { return "NEW" + strings.TrimPrefix(name, "tpm") }

// journalName is the name of the journal of such a change.
func (d *Dir) journalName() string { return stagedName(d.o.Prefix) + "journal" }

// Apply changes several files at once; see nv.BatchBackend. No two names can be
// changed in one step, so it goes like this:
//
//  1. every new content is written to a file of its own, NEW2-00.*, and synced;
//  2. a journal says what is to become of them; once it has its name,
//     NEW2-00.journal, and that is synced, the change is decided;
//  3. the files are renamed to the names of the items, the first change first,
//     and old items removed; that is synced;
//  4. the journal goes.
//
// Whoever locks the directory next removes what was staged without a journal, and
// finishes what has one; see recover. Each step but the third
// leaves the items alone. In the third they are of two kinds for a moment, which
// only a program that does not know the journal could see, and only if the
// process dies there; with a single change there is no such moment.
//
// New files get the permissions of the ones they replace. Files that were left
// by stores that were cut short are removed first: they may hold the old state.
func (d *Dir) Apply(changes []nv.Change) error {
	if len(changes) == 0 || changes[0].Blob == nil {
		return errors.New("a batch must begin with an item that is stored")
	}
	if !d.locked {
		return errors.New("several items are changed under the lock only")
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
		return fmt.Errorf("the change is decided, but may not survive a power cut; it is finished when the state is locked next: %w", err)
	}
	return d.finish(j)
}

// clean removes what stores and batches have left that were cut short.
func (d *Dir) clean(changes []nv.Change) error {
	names := []string{d.journalName() + ".tmp"}
	for _, c := range changes {
		if err := d.checkWrite(c.Name); err != nil {
			return err
		}
		names = append(names, stagedName(c.Name), tempName(c.Name))
	}
	if _, err := d.files.Stat(swapName(d.permanent)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q is there, what the state is called while it is swapped with its backup; rename it to %q if that is missing, else remove it",
			swapName(d.permanent), backupName(d.permanent))
	}
	return d.removeAll(names)
}

// removeAll removes the files that are there.
func (d *Dir) removeAll(names []string) error {
	var errs []error
	for _, name := range names {
		if err := d.files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stage writes and syncs the new contents and the journal, which has not its
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

// unstage removes what stage has written.
func (d *Dir) unstage(j journal) error {
	names := []string{d.journalName() + ".tmp"}
	for _, e := range j {
		if e.next != noDigest {
			names = append(names, stagedName(e.name))
		}
	}
	return d.removeAll(names)
}

// digest returns the SHA-256 of a file in hex digits, noDigest if there is none,
// and the permissions that a file in its place gets.
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

// recover finishes the change of several files that a journal tells of. Without
// a journal the items are as they were, and what was staged goes. A directory that
// is open for reading stays as it is, but is read as it would be.
func (d *Dir) recover() error {
	if d.o.ReadOnly {
		return d.foresee()
	}
	j, err := d.loadJournal()
	if err != nil {
		return err
	}
	if len(j) == 0 {
		return d.dropStaged()
	}
	d.o.Warn("a change of %d state files in %q was cut short; finishing it", len(j), d.path)
	return d.finish(j)
}

// dropStaged removes what a batch has left that was cut short before it was
// decided: it may hold the state without its key. Without the lock it may belong
// to one that is under way.
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

// foresee notes what recover would do.
func (d *Dir) foresee() error {
	d.foreseen = nil
	j, err := d.loadJournal()
	if err != nil {
		return err
	}
	foreseen := map[string]string{}
	for i, e := range j {
		next, err := d.next(e)
		switch {
		case err != nil:
			return err
		case next == overtaken && i == 0:
			return nil
		case next == rename:
			foreseen[e.name] = stagedName(e.name)
		case next == remove:
			foreseen[e.name] = ""
		}
	}
	d.foreseen = foreseen
	return nil
}

// loadJournal returns the journal, an empty one if there is none.
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
		return nil, fmt.Errorf("%q, which tells of a change that was cut short: %w; restore the state from a backup, or remove the file if the state is whole", d.journalName(), err)
	}
	return j, nil
}

// readJournal returns the journal. Its error is fs.ErrNotExist if there is none.
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

// finish does what a decided journal says and is not done yet.
//
// Only what is still as the journal has found it is touched: a program that does
// not know the journal may have run since, and what it has stored is newer. If
// that is so with the first file nothing is changed at all.
func (d *Dir) finish(j journal) error {
	for i, e := range j {
		next, err := d.next(e)
		if err == nil {
			err = d.do(next, e.name)
		}
		if err != nil {
			return fmt.Errorf("the change of several files is not finished, and will be when the state is locked next: %w", err)
		}
		if next == overtaken && i == 0 {
			d.o.Warn("%q was changed by another program since; the change that was cut short is undone", e.name)
			break
		}
		if next == overtaken {
			d.o.Warn("%q was changed by another program since, and stays", e.name)
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

// step is what is left to do for one entry of a journal.
type step uint8

const (
	done      step = iota
	rename         // the staged file to the name of the item
	remove         // the item
	overtaken      // nothing: another program has changed the item
)

// next returns what is left to do for e. If another program has changed the file
// after it had become what it was to be, the staged file is gone, and e is done.
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
		err = fmt.Errorf("%q, the next content of %q, is not there or damaged; restore it, or remove %q to keep the state as it was", stagedName(e.name), e.name, d.journalName())
	}
	return rename, err
}

// do takes a step for the item name.
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
