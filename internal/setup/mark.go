package setup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/inventory"
	"github.com/swtpm-go/swtpm/internal/folder"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tool"
)

// markName is the file in a state directory that tells of the manufacture that
// its TPM's profile has asked for. libvirt takes a directory with nothing but
// such names for an empty one.
const markName = ".manufactured"

// maxMark is more than any mark has, in bytes.
const maxMark = 1 << 16

// mark is what the file says. The state of a TPM is there or not, in one step;
// the mark tells a TPM that never was from one that is lost.
type mark struct {
	Begun time.Time `json:"begun"`
	Done  time.Time `json:"done,omitzero"`

	Keys []inventory.Entry `json:"keys,omitempty"` // what was made
}

// readMark returns the mark in dir, nil if there is none.
func readMark(dir string) (*mark, error) {
	f, err := folder.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, _, err := f.Read(markName, maxMark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &mark{}
	if err := json.Unmarshal(b, m); err != nil || m.Begun.IsZero() {
		return nil, fmt.Errorf("%s is no record of a manufacture; remove it if there is no TPM to be lost", f.Path(markName))
	}
	return m, nil
}

// write puts the mark into dir, on the disk.
func (m *mark) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := folder.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Write(markName, markName+".new", append(b, '\n'), 0o640, true)
}

// day is how people are told of a time.
func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// decide says whether a TPM is to be made in the place of a profile, where one is
// or is not there: never beside one, and never in place of one that was lost. It
// is asked before the place is locked, while another process may be at work, and
// again when it is.
func (p *program) decide(pl *place, there bool) (bool, error) {
	m, err := pl.mark()
	if err == nil && m != nil && !m.Done.IsZero() && !there {
		// A mark is done after its TPM is there: it may have come meanwhile.
		var item string
		item, err = pl.existing()
		there = item != ""
	}
	switch {
	case there && m == nil:
		p.log.Infof("There is a TPM in %s that [manufacture] has no part in; it is left as it is.", pl.uri)
	case err != nil:
	case there && m.Done.IsZero(): // who made it was interrupted, or is about to say that it is done
		err = pl.finish(m)
		p.log.Infof("The TPM in %s was manufactured on %s; it is left as it is.", pl.uri, day(m.when()))
	case there:
		p.log.Infof("The TPM in %s was manufactured on %s; it is left as it is.", pl.uri, day(m.when()))
	case m == nil:
		return true, nil
	case m.Done.IsZero():
		if pl.b != nil { // else it may be under way
			p.log.Infof("The manufacture that began on %s was interrupted; it begins again.", day(m.Begun))
		}
		return true, nil
	default:
		return false, tool.Complain("The TPM that was manufactured on %s is not in %s any more: restore it from a backup, or remove %s/%s for a new one.", day(m.Done), pl.uri, pl.path, markName)
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
func (p *place) finish(m *mark) error {
	if p.b == nil {
		if err := p.open(); errors.Is(err, nv.ErrLocked) {
			return nil
		} else if err != nil {
			return err
		}
		err := p.finish(m)
		b := p.b
		p.b = nil
		return errors.Join(err, b.Close())
	}
	now, err := p.mark() // as it is when nobody else writes it
	if err != nil || now == nil {
		return err
	}
	if now.Done.IsZero() {
		now.Done = time.Now().UTC()
		err = now.write(p.path)
	}
	*m = *now
	return err
}

// mark returns the mark of the place, nil if it has none. In a file there is room
// for the TPM only.
func (p *place) mark() (*mark, error) {
	if !p.isDir() {
		return nil, nil
	}
	return readMark(p.path)
}

// begin marks that the manufacture begins, end that it is over. Both are called
// with the place locked, and only for a profile.
func (p *program) begin(pl *place) error {
	if !p.o.marked || !pl.isDir() {
		return nil
	}
	pl.begun = time.Now().UTC()
	return (&mark{Begun: pl.begun}).write(pl.path)
}

func (p *program) end(pl *place, made []inventory.Entry) error {
	if !p.o.marked || !pl.isDir() {
		return nil
	}
	return (&mark{Begun: pl.begun, Done: time.Now().UTC(), Keys: made}).write(pl.path)
}
