// Package anchor ties the marks of a host, which detect old TPM states, to the host's own
// TPM: a counter there cannot go back. Without it, a copy of the whole disk brings old
// marks together with old states, and nothing differs.
//
// The anchor file holds the value of the counter and what each mark knew at that time. It
// is older than the counter if it was restored from a copy; a mark is older than the file
// if the mark was restored or overwritten.
package anchor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/nv/mark"
)

// Index is the NV index of the counter, from the range for the owner.
//
// Source: TCG Registry of Reserved TPM 2.0 Handles and Localities, section 2.2.2.
const Index tpm2.TPMHandle = 0x0180_5447

// ErrRolledBack means that the marks or the anchor file are older than the host's TPM
// knows.
var ErrRolledBack = errors.New("the marks of this host were rolled back")

// Anchor is the anchor file of a host.
type Anchor struct {
	TPM   transport.TPM
	Owner []byte // authorization of the TPM's owner hierarchy
	File  string // path of the anchor file
	Marks string // directory of the marks
}

// content is the JSON of the anchor file.
type content struct {
	Counter uint64                       `json:"counter"` // value of the counter after the update
	Time    time.Time                    `json:"time"`
	Marks   map[string]generation.Vector `json:"marks"` // by the names of their files
}

// Update makes the present marks the anchored ones and advances the counter, which it
// creates if it is missing. It fails with ErrRolledBack, and changes nothing, if Check
// does.
//
// The file is written before the counter is advanced. After a crash in between it is one
// ahead, which Check accepts.
func (a *Anchor) Update(now time.Time) error {
	counter, err := a.counter()
	switch {
	case errors.Is(err, tpm2.TPMRCHandle):
		if _, err := os.Lstat(a.File); err == nil {
			return fmt.Errorf("%w: the host's TPM has no counter for %s: it was cleared, or is another TPM", ErrRolledBack, a.File)
		}
		if counter, err = a.create(); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		// A missing file is refused, too: else its removal would end an alarm.
		if err := a.check(counter); err != nil {
			return err
		}
	}
	marks, err := mark.List(a.Marks)
	if err != nil {
		return err
	}
	if err := a.write(content{counter + 1, now.UTC(), marks}); err != nil {
		return err
	}
	return a.increment()
}

// Check compares the marks with the anchor file, and the file with the counter. Its error
// is ErrRolledBack if one of them is too old or missing, fs.ErrNotExist without a counter.
func (a *Anchor) Check() error {
	counter, err := a.counter()
	if errors.Is(err, tpm2.TPMRCHandle) {
		return fmt.Errorf("the host's TPM has no counter at %#x: %w; run swtpm anchor update", Index, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	return a.check(counter)
}

func (a *Anchor) check(counter uint64) error {
	text, err := os.ReadFile(a.File)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing, but the host's TPM has its counter", ErrRolledBack, a.File)
	}
	if err != nil {
		return fmt.Errorf("anchor file: %w", err)
	}
	var c content
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("anchor file %s: %w", a.File, err)
	}
	if c.Counter != counter && c.Counter != counter+1 {
		return fmt.Errorf("%w: %s of %s has counter %d, the host's TPM has %d", ErrRolledBack, a.File, c.Time.Format(time.RFC3339), c.Counter, counter)
	}
	marks, err := mark.List(a.Marks)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Marks)) {
		now, ok := marks[name]
		if !ok {
			return fmt.Errorf("%w: mark %s is missing", ErrRolledBack, filepath.Join(a.Marks, name))
		}
		if now.Max() < c.Marks[name].Max() {
			return fmt.Errorf("%w: mark %s knows generation %d, the anchor file of %s knows %d",
				ErrRolledBack, filepath.Join(a.Marks, name), now.Max(), c.Time.Format(time.RFC3339), c.Marks[name].Max())
		}
	}
	return nil
}

// Remove deletes the counter and the anchor file.
func (a *Anchor) Remove() error {
	public, err := tpm2.NVReadPublic{NVIndex: Index}.Execute(a.TPM)
	if err == nil {
		_, err = tpm2.NVUndefineSpace{AuthHandle: a.owner(), NVIndex: tpm2.NamedHandle{Handle: Index, Name: public.NVName}}.Execute(a.TPM)
	}
	if err != nil && !errors.Is(err, tpm2.TPMRCHandle) {
		return fmt.Errorf("remove the counter %#x of the host's TPM: %w", Index, err)
	}
	if err := os.Remove(a.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("anchor file: %w", err)
	}
	return nil
}

// write replaces the anchor file durably.
func (a *Anchor) write(c content) error {
	text, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	dir, base := filepath.Split(a.File)
	f, err := os.CreateTemp(dir, "."+base+"-*")
	if err != nil {
		return fmt.Errorf("anchor file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), a.File)
	}
	if err == nil {
		var d *os.File
		if d, err = os.Open(filepath.Dir(a.File)); err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("anchor file: %w", err)
	}
	return nil
}

// owner authorizes a command of the owner.
func (a *Anchor) owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(a.Owner)}
}

// handle names the counter in a command; its authorization is empty.
func (a *Anchor) handle() (tpm2.AuthHandle, error) {
	public, err := tpm2.NVReadPublic{NVIndex: Index}.Execute(a.TPM)
	if err != nil {
		return tpm2.AuthHandle{}, fmt.Errorf("counter %#x of the host's TPM: %w", Index, err)
	}
	return tpm2.AuthHandle{Handle: Index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)}, nil
}

// counter returns the value of the counter. Its error is tpm2.TPMRCHandle if the TPM does
// not have it.
func (a *Anchor) counter() (uint64, error) {
	h, err := a.handle()
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{AuthHandle: h, NVIndex: tpm2.NamedHandle{Handle: h.Handle, Name: h.Name}, Size: 8}.Execute(a.TPM)
	if err != nil {
		return 0, fmt.Errorf("read counter %#x of the host's TPM: %w", Index, err)
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, fmt.Errorf("counter %#x of the host's TPM has %d bytes, expected 8", Index, len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// create defines the counter and returns its first value. Every program on the host may
// advance it: that causes a warning, and a higher value hides no old state.
func (a *Anchor) create() (uint64, error) {
	_, err := tpm2.NVDefineSpace{AuthHandle: a.owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: Index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{OwnerWrite: true, AuthWrite: true, NT: tpm2.TPMNTCounter, OwnerRead: true, AuthRead: true, NoDA: true},
	})}.Execute(a.TPM)
	if err != nil {
		return 0, fmt.Errorf("create counter %#x in the host's TPM: %w", Index, err)
	}
	if err := a.increment(); err != nil { // a counter cannot be read before
		return 0, err
	}
	return a.counter()
}

func (a *Anchor) increment() error {
	h, err := a.handle()
	if err != nil {
		return err
	}
	if _, err := (tpm2.NVIncrement{AuthHandle: h, NVIndex: tpm2.NamedHandle{Handle: h.Handle, Name: h.Name}}).Execute(a.TPM); err != nil {
		return fmt.Errorf("advance counter %#x of the host's TPM: %w", Index, err)
	}
	return nil
}
