// Package anchor ties the marks of a host, which detect old TPM states, to a counter in the host's
// own TPM, which never decreases. Without it, a TPM would start if the whole disk was replaced by an
// old copy, with old marks and old states.
//
// The anchor file holds the value of the counter, and the generation of each mark at that time. If
// the file was restored from a copy, its value is lower than the counter. If a mark was restored or
// overwritten, it is older than the file says.
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

// ErrRolledBack means that the marks or the anchor file are older than the counter in the host's
// TPM shows.
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

// Update stores the present marks in the anchor file and increments the counter, which it creates
// if it is missing. If Check fails with ErrRolledBack, Update does so, too, and changes nothing.
//
// It writes the file before it increments the counter. After a crash in between, the value in the
// file is higher by one, which Check accepts.
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
		// A missing file is an error, too: otherwise its removal would hide an error.
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

// Check compares the marks with the anchor file, and the file with the counter. It fails with
// ErrRolledBack if a mark or the file is too old or missing, and with fs.ErrNotExist if there is no
// counter.
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
			return fmt.Errorf("%w: mark %s has generation %d, the anchor file of %s has %d",
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

// write replaces the anchor file and syncs it.
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

// create defines the counter and returns its first value. Every program on the host may increment
// it. That causes an error of Check, but does not hide an old state.
func (a *Anchor) create() (uint64, error) {
	_, err := tpm2.NVDefineSpace{AuthHandle: a.owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: Index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{OwnerWrite: true, AuthWrite: true, NT: tpm2.TPMNTCounter, OwnerRead: true, AuthRead: true, NoDA: true},
	})}.Execute(a.TPM)
	if err != nil {
		return 0, fmt.Errorf("create counter %#x in the host's TPM: %w", Index, err)
	}
	if err := a.increment(); err != nil { // before that, a counter cannot be read
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
