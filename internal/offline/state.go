// Package offline works on the state of a TPM that is off: it tells what is there,
// proves that it would start, changes its key, packs it into an archive and
// unpacks one, and goes back to the generation before.
//
// The state is reached through package nv and locked as long as it is open, so
// that no emulator runs on it meanwhile. Payloads are decoded by package payload
// and, where an engine is given, loaded into libtpms with a host that never
// writes. Which place, which key and which engine, is the caller's to say.
package offline

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ErrNone means that there is no TPM in a place.
var ErrNone = errors.New("there is no state of a TPM")

// versions are those that there are.
var versions = []tpm.Version{tpm.V20, tpm.V12}

// Options says which state is meant.
type Options struct {
	// Open opens the place for the items with that prefix. Where names it in
	// messages.
	Open  func(prefix string, readOnly bool) (nv.Backend, error)
	Where string

	ReadOnly bool        // nothing is to change
	Version  tpm.Version // 0 is the one that is there
	Key      *seal.Key   // of the state; nil if it is plain, or unknown. It stays the caller's
}

// State is the state of one TPM, locked.
type State struct {
	b       nv.Backend
	where   string
	version tpm.Version
	prefix  string
	key     *seal.Key
}

// Open opens and locks a state. Its error is ErrNone if Options.Version is 0 and
// no TPM is there.
func Open(o Options) (*State, error) {
	v := o.Version
	if v == 0 {
		var err error
		if v, err = o.findVersion(); err != nil {
			return nil, err
		}
	}
	s := &State{where: o.Where, version: v, prefix: v.FilePrefix(), key: o.Key}
	var err error
	if s.b, err = o.Open(s.prefix, o.ReadOnly); err != nil {
		return nil, err
	}
	if err := s.b.Lock(); err != nil {
		return nil, errors.Join(s.inUse(err), s.b.Close())
	}
	return s, nil
}

// inUse says who holds the lock, if that is the error and can be found out.
func (s *State) inUse(err error) error {
	if !errors.Is(err, nv.ErrLocked) {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	who := "another process"
	if b, ok := s.b.(nv.HolderBackend); ok {
		if h, err := b.Holder(); err == nil && h.PID > 0 {
			who = nameProcess(h.PID)
		}
	}
	return fmt.Errorf("the state in %s is in use by %s; stop it first: %w", s.where, who, nv.ErrLocked)
}

// nameProcess names a process by its number and, if it can be read, its program.
func nameProcess(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d, %q", pid, strings.TrimSpace(string(name)))
}

// Close unlocks and closes the state.
func (s *State) Close() error {
	if err := s.b.Close(); err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	return nil
}

// Version returns the TPM's version.
func (s *State) Version() tpm.Version { return s.version }

// findVersion returns the version of the TPM that is there.
func (o Options) findVersion() (tpm.Version, error) {
	found := map[tpm.Version][]byte{}
	for _, v := range versions {
		blob, err := o.probe(v.FilePrefix())
		if err != nil {
			return 0, err
		}
		if blob != nil {
			found[v] = blob
		}
	}
	switch {
	case len(found) == 0:
		return 0, fmt.Errorf("%s: %w", o.Where, ErrNone)
	case len(found) == 1:
		for v := range found {
			return v, nil
		}
	}
	// A place whose items have no prefix tells it by what is in them alone.
	if bytes.Equal(found[tpm.V12], found[tpm.V20]) {
		if p, err := seal.Open(found[tpm.V20], o.Key); err == nil {
			v := payload.VersionOf(p)
			seal.Wipe(p)
			if v != 0 {
				return v, nil
			}
		}
		return 0, fmt.Errorf("%s does not tell which TPM it is; say so with --tpm 1.2 or --tpm 2.0", o.Where)
	}
	return 0, fmt.Errorf("%s has a TPM 1.2 and a TPM 2.0; say which with --tpm 1.2 or --tpm 2.0", o.Where)
}

// probe returns the permanent state, or what else is there of a TPM; nil if
// nothing is. What cannot be read counts as there.
func (o Options) probe(prefix string) ([]byte, error) {
	b, err := o.Open(prefix, true) // it is not locked yet
	if err != nil {
		return nil, err
	}
	defer b.Close()
	for _, item := range []string{nv.Permanent, nv.Volatile, nv.Savestate} {
		blob, err := b.Load(prefix + item)
		switch {
		case err == nil:
			return blob, nil
		case !errors.Is(err, fs.ErrNotExist):
			return []byte(prefix), nil
		}
	}
	return nil, nil
}

// item is one item as it is stored.
type item struct {
	name    string // nv.Permanent and so on, or nv.Backup
	blob    tpm.Blob
	sealed  []byte
	payload []byte    // once it is opened
	changed time.Time // zero if the backend does not tell
}

// wipe clears the secrets.
func wipe(items []item) {
	for _, i := range items {
		seal.Wipe(i.sealed)
		seal.Wipe(i.payload)
	}
}

// items reads all items that are there, the permanent one first, the backup last.
// It is an error if the permanent one is missing.
func (s *State) items() ([]item, error) {
	changed, err := s.changed()
	if err != nil {
		return nil, err
	}
	var all []item
	for _, i := range s.names() {
		blob, err := s.b.Load(s.prefix + i.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", s.where, err)
		}
		i.sealed, i.changed = blob, changed[s.prefix+i.name]
		all = append(all, i)
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("%s: %w of version %s", s.where, ErrNone, s.version)
	case all[0].name != nv.Permanent:
		return nil, fmt.Errorf("%s: %s is there, but %s is missing; restore it from a backup", s.where, all[0].name, nv.Permanent)
	}
	return all, nil
}

// names returns the items that the backend may have.
func (s *State) names() (all []item) {
	for _, b := range tpm.Blobs {
		if b == tpm.Savestate && s.version == tpm.V20 {
			continue
		}
		all = append(all, item{name: b.Name(), blob: b})
	}
	if _, ok := s.b.(nv.BackupBackend); ok {
		all = append(all, item{name: nv.Backup, blob: tpm.Permanent})
	}
	return all
}

// changed returns when each entry was changed last, by its name, if the backend
// can tell.
func (s *State) changed() (map[string]time.Time, error) {
	all := map[string]time.Time{}
	entries, err := s.list()
	for _, e := range entries {
		all[e.Name] = e.Changed
	}
	return all, err
}

// list returns what the backend keeps, nothing if it cannot tell.
func (s *State) list() ([]nv.Entry, error) {
	b, ok := s.b.(nv.ListBackend)
	if !ok {
		return nil, nil
	}
	entries, err := b.List()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	return entries, nil
}

// open opens i with key and checks what is in it.
func (s *State) open(i *item, key *seal.Key) error {
	p, err := seal.Open(i.sealed, key)
	return s.opened(i, p, err)
}

// opened checks p, the payload of i, unless err says that there is none.
func (s *State) opened(i *item, p []byte, err error) error {
	if err == nil {
		if err = payload.Check(s.version, i.blob, p); err != nil {
			seal.Wipe(p)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", i.name, err)
	}
	i.payload = p
	return nil
}

// openAll opens every item with the key of the state.
func (s *State) openAll(items []item) error {
	var errs []error
	for n := range items {
		errs = append(errs, s.open(&items[n], s.key))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	return nil
}
