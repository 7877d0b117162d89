package setup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// markName is the name of the mark in a state directory. A mark records the manufacture of a TPM
// from its profile. The name begins with a dot, because libvirt treats a directory with only
// hidden files as empty. Next to a state in one file, the name of that file precedes it.
const markName = ".manufactured"

// markFile is the directory and the name of a mark.
type markFile struct{ dir, name string }

func (a *markFile) path() string { return filepath.Join(a.dir, a.name) }

// markFile returns the mark of the location, nil if it has none: a block device is in a directory
// that does not outlive a reboot, and a cluster store belongs to several hosts.
func (l *location) markFile() *markFile {
	if l.Kind == nv.Cluster {
		return nil
	}
	if l.isDir() {
		return &markFile{l.path, markName}
	}
	if st, err := os.Lstat(l.path); err == nil && !st.Mode().IsRegular() {
		return nil
	}
	return &markFile{filepath.Dir(l.path), "." + filepath.Base(l.path) + markName}
}

// maxMark is the size limit of a mark in bytes.
const maxMark = 1 << 16

// mark is the content of a mark. If there is no state, it distinguishes a lost TPM from a
// TPM that was not created yet.
type mark struct {
	Begun time.Time `json:"begun"`
	Done  time.Time `json:"done,omitzero"`

	Keys []inventoryEntry `json:"keys,omitempty"` // the keys that were created
}

// readMark reads a mark; it returns nil if there is none.
func readMark(at *markFile) (*mark, error) {
	f, err := safefile.Open(at.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, _, err := f.Read(at.name, maxMark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &mark{}
	if err := json.Unmarshal(b, m); err != nil || m.Begun.IsZero() {
		return nil, fmt.Errorf("%s: invalid record of a manufacture; remove it if no TPM can be lost", at.path())
	}
	return m, nil
}

// write writes the mark to disk.
func (m *mark) write(at *markFile) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := safefile.Open(at.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Write(at.name, at.name+".new", append(b, '\n'), 0o640, true)
}

// day formats a time for messages.
func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// decide reports whether to create the TPM of a profile. exists reports whether there is
// a TPM. It never replaces an existing TPM, nor one that was lost. It is called before the
// location is locked, while another process may create the TPM, and again after that.
func (p *program) decide(loc *location, exists bool) (bool, error) {
	m, err := loc.mark()
	if err == nil && m != nil && !m.Done.IsZero() && !exists {
		// Another process may have stored the TPM and then completed the mark.
		var item string
		item, err = loc.existing()
		exists = item != ""
	}
	switch {
	case exists && m == nil:
		p.log.Infof("The TPM in %s was not created by [manufacture]; leaving it unchanged.", loc.Location)
	case err != nil:
	case exists && m.Done.IsZero(): // its process was interrupted, or is about to complete the mark
		err = loc.finish(m)
		p.log.Infof("The TPM in %s was manufactured on %s; leaving it unchanged.", loc.Location, day(m.when()))
	case exists:
		p.log.Infof("The TPM in %s was manufactured on %s; leaving it unchanged.", loc.Location, day(m.when()))
	case m == nil:
		return true, nil
	case m.Done.IsZero():
		if loc.b != nil { // otherwise another process may be running
			p.log.Infof("The manufacture of %s was interrupted; starting again.", day(m.Begun))
		}
		return true, nil
	default:
		return false, cli.Complain("The TPM that was manufactured on %s is missing in %s: restore it from a backup, or remove %s to create a new one.", day(m.Done), loc.Location, loc.markFile().path())
	}
	return false, err
}

// when returns the time of the manufacture for messages.
func (m *mark) when() time.Time {
	if m.Done.IsZero() {
		return m.Begun
	}
	return m.Done
}

// finish completes the mark of an existing TPM. If another process has locked the
// location, finish does nothing: that process completes the mark, or is an emulator,
// which does not need it.
func (l *location) finish(m *mark) error {
	if l.b == nil {
		if err := l.open(); errors.Is(err, nv.ErrLocked) {
			return nil
		} else if err != nil {
			return err
		}
		err := l.finish(m)
		b := l.b
		l.b = nil
		return errors.Join(err, b.Close())
	}
	now, err := l.mark() // read again under the lock
	if err != nil || now == nil {
		return err
	}
	if now.Done.IsZero() {
		now.Done = time.Now().UTC()
		err = now.write(l.markFile())
	}
	*m = *now
	return err
}

// mark returns the mark of the location, nil if it has none.
func (l *location) mark() (*mark, error) {
	at := l.markFile()
	if at == nil {
		return nil, nil
	}
	m, err := readMark(at)
	if l.cannotMark(err) {
		return nil, nil
	}
	return m, err
}

// cannotMark reports whether err means that this user cannot write a mark: a user with access to
// the file of a state may have no access to the directory of that file.
func (l *location) cannotMark(err error) bool {
	return !l.isDir() && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS))
}

// begin writes the mark at the beginning of the manufacture of a profile. The location is
// locked.
func (p *program) begin(loc *location) error {
	at := loc.markFile()
	if !p.o.marked || at == nil {
		return nil
	}
	begun := time.Now().UTC()
	err := (&mark{Begun: begun}).write(at)
	if loc.cannotMark(err) {
		p.log.Infof("Cannot record the manufacture, so a lost TPM would be replaced by a new one: %v.", err)
		return nil
	}
	loc.begun = begun
	return err
}

// end completes the mark that begin has written.
func (p *program) end(loc *location, keys []inventoryEntry) error {
	if loc.begun.IsZero() {
		return nil
	}
	return (&mark{Begun: loc.begun, Done: time.Now().UTC(), Keys: keys}).write(loc.markFile())
}
