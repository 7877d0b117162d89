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

// markName is the file in a state directory that tells of the manufacture that
// its TPM's profile has asked for. libvirt takes a directory with nothing but
// such names for an empty one. Beside a state in one file it has that file's name
// before it.
const markName = ".manufactured"

// markFile is where the mark of a place is: a directory, and a name in it.
type markFile struct{ dir, name string }

func (a *markFile) path() string { return filepath.Join(a.dir, a.name) }

// markFile returns where the mark of the place is, nil if it has none: a block
// device has no place beside it that outlives a reboot.
func (l *location) markFile() *markFile {
	if l.isDir() {
		return &markFile{l.path, markName}
	}
	if st, err := os.Lstat(l.path); err == nil && !st.Mode().IsRegular() {
		return nil
	}
	return &markFile{filepath.Dir(l.path), "." + filepath.Base(l.path) + markName}
}

// maxMark is more than any mark has, in bytes.
const maxMark = 1 << 16

// mark is what the file says. The state of a TPM is there or not, in one step;
// the mark tells a TPM that never was from one that is lost.
type mark struct {
	Begun time.Time `json:"begun"`
	Done  time.Time `json:"done,omitzero"`

	Keys []inventoryEntry `json:"keys,omitempty"` // what was made
}

// readMark returns the mark, nil if there is none.
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
		return nil, fmt.Errorf("%s is no record of a manufacture; remove it if there is no TPM to be lost", at.path())
	}
	return m, nil
}

// write puts the mark there, on the disk.
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

// day is how people are told of a time.
func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// decide says whether a TPM is to be made in the place of a profile, where one is
// or is not there: never beside one, and never in place of one that was lost. It
// is asked before the place is locked, while another process may be at work, and
// again when it is.
func (p *program) decide(loc *location, there bool) (bool, error) {
	m, err := loc.mark()
	if err == nil && m != nil && !m.Done.IsZero() && !there {
		// A mark is done after its TPM is there: it may have come meanwhile.
		var item string
		item, err = loc.existing()
		there = item != ""
	}
	switch {
	case there && m == nil:
		p.log.Infof("The TPM in %s was not created by [manufacture]; leaving it unchanged.", loc.Location)
	case err != nil:
	case there && m.Done.IsZero(): // who made it was interrupted, or is about to say that it is done
		err = loc.finish(m)
		p.log.Infof("The TPM in %s was manufactured on %s; it is left as it is.", loc.Location, day(m.when()))
	case there:
		p.log.Infof("The TPM in %s was manufactured on %s; it is left as it is.", loc.Location, day(m.when()))
	case m == nil:
		return true, nil
	case m.Done.IsZero():
		if loc.b != nil { // else it may be under way
			p.log.Infof("The manufacture that began on %s was interrupted; it begins again.", day(m.Begun))
		}
		return true, nil
	default:
		return false, cli.Complain("The TPM that was manufactured on %s is not in %s any more: restore it from a backup, or remove %s for a new one.", day(m.Done), loc.Location, loc.markFile().path())
	}
	return false, err
}

// when is the time at which people are told that the TPM was made.
func (m *mark) when() time.Time {
	if m.Done.IsZero() {
		return m.Begun
	}
	return m.Done
}

// finish has the mark of a TPM that is there say that it is done. Who has the
// place locked may be the one who made the TPM, and writes the mark then; an
// emulator needs none.
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
	now, err := l.mark() // as it is when nobody else writes it
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

// mark returns the mark of the place, nil if it has none.
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

// cannotMark says whether err means that there cannot be a mark: who may use the
// file of a state need not have the directory that it is in.
func (l *location) cannotMark(err error) bool {
	return !l.isDir() && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS))
}

// begin marks that the manufacture begins, end that it is over. Both are called
// with the place locked, and only for a profile.
func (p *program) begin(loc *location) error {
	at := loc.markFile()
	if !p.o.marked || at == nil {
		return nil
	}
	begun := time.Now().UTC()
	err := (&mark{Begun: begun}).write(at)
	if loc.cannotMark(err) {
		p.log.Infof("There will be no record of the manufacture, so if the TPM is lost, a new one is made: %v.", err)
		return nil
	}
	loc.begun = begun
	return err
}

func (p *program) end(loc *location, made []inventoryEntry) error {
	if loc.begun.IsZero() {
		return nil
	}
	return (&mark{Begun: loc.begun, Done: time.Now().UTC(), Keys: made}).write(loc.markFile())
}
