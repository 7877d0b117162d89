// Package offline works on the state of a TPM that is off: it describes the state, checks
// that libtpms starts with it, changes its key, exports it to an archive, imports one, and
// restores the previous generation.
//
// The state is accessed through package nv and locked while it is open, so that no emulator
// runs on it. Package payload decodes payloads, and an engine, if one is given, loads them
// into libtpms with a host that never writes.
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
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ErrNone means that the storage contains no TPM.
var ErrNone = errors.New("no state of a TPM")

// versions are the known versions of TPMs.
var versions = []tpm.Version{tpm.V20, tpm.V12}

// Options identifies a state.
type Options struct {
	// Open opens the storage for the items with that prefix. Where is its name in messages.
	Open  func(prefix string, readOnly bool) (nv.Backend, error)
	Where string

	// Writer is the program that stores. Mark returns the newest state of a TPM that was seen
	// on this host; it is nil if this host keeps no marks.
	Writer generation.Writer
	Mark   func(generation.Identity) (generation.Mark, error)

	Location nv.Location // Where; of a cluster store, nothing is stored there without a key
	Plain    bool        // also without a key

	ReadOnly bool        // change nothing
	Version  tpm.Version // 0: the version of the stored TPM
	Key      *seal.Key   // of the state; nil if it is plain or unknown. The caller closes it

	Migration *seal.Key // of the blobs of a snapshot; nil if they need none. The caller closes it
}

// State is the state of one TPM, locked.
type State struct {
	b       nv.Backend
	where   string
	version tpm.Version
	prefix  string
	key     *seal.Key

	migration *seal.Key
	writer    generation.Writer
	mark      func(generation.Identity) (generation.Mark, error)
	location  nv.Location
	plain     bool
}

// Open opens and locks a state. Its error is ErrNone if Options.Version is 0 and the
// storage contains no TPM.
func Open(o Options) (*State, error) {
	v := o.Version
	if v == 0 {
		var err error
		if v, err = o.findVersion(); err != nil {
			return nil, err
		}
	}
	s := &State{where: o.Where, version: v, prefix: v.FilePrefix(), key: o.Key, migration: o.Migration, writer: o.Writer, mark: o.Mark, location: o.Location, plain: o.Plain}
	var err error
	if s.b, err = o.Open(s.prefix, o.ReadOnly); err != nil {
		return nil, err
	}
	if err := s.b.Lock(); err != nil {
		return nil, errors.Join(s.inUse(err), s.b.Close())
	}
	return s, nil
}

// inUse adds the process that holds the lock, if it is known, to err if that is
// nv.ErrLocked.
func (s *State) inUse(err error) error {
	if !errors.Is(err, nv.ErrLocked) {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	who := "another process"
	if b, ok := s.b.(nv.HolderBackend); ok {
		h, err := b.Holder()
		switch {
		case err == nil && h.Owner != "":
			return fmt.Errorf("the state in %s is owned by %s; stop the TPM there, or wait until its lease expires: %w", s.where, h.Owner, nv.ErrLocked)
		case err == nil && h.PID > 0:
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

// findVersion returns the version of the stored TPM.
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
	// Only the content of items without a prefix shows the version.
	if bytes.Equal(found[tpm.V12], found[tpm.V20]) {
		if p, err := seal.Open(found[tpm.V20], o.Key); err == nil {
			v := payload.VersionOf(p)
			seal.Wipe(p)
			if v != 0 {
				return v, nil
			}
		}
		return 0, fmt.Errorf("%s: unknown version of the TPM; give --tpm 1.2 or --tpm 2.0", o.Where)
	}
	return 0, fmt.Errorf("%s contains a TPM 1.2 and a TPM 2.0; choose one with --tpm 1.2 or --tpm 2.0", o.Where)
}

// probe returns the permanent state or another item, nil if none exists. An item that cannot be
// read exists, too, unless the reason is a cluster store that does not answer as it should.
func (o Options) probe(prefix string) ([]byte, error) {
	b, err := o.Open(prefix, true) // the caller does not hold the lock
	if err != nil {
		return nil, err
	}
	defer b.Close()
	for _, item := range []string{nv.Permanent, nv.Volatile, nv.Savestate} {
		blob, err := b.Load(prefix + item)
		switch {
		case err == nil:
			return blob, nil
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, nv.ErrUnreachable), o.Location.Kind == nv.Cluster && !errors.Is(err, nv.ErrDamaged):
			return nil, fmt.Errorf("%s: %w", o.Where, err)
		case o.Location.Kind == nv.Cluster:
			if blob, known := newestStored(b, prefix); known {
				return blob, nil
			}
			return nil, fmt.Errorf("%s: %w", o.Where, err)
		default:
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
	record  []byte    // of the opened item; nil if it has none
	changed time.Time // zero if unknown
}

// wipe clears the secrets.
func wipe(items []item) {
	for _, i := range items {
		seal.Wipe(i.sealed)
		seal.Wipe(i.payload)
	}
}

// items reads all existing items, the permanent one first, the backup last. A missing
// permanent one is an error.
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
		return nil, fmt.Errorf("%s: %s exists, but %s is missing; restore it from a backup", s.where, all[0].name, nv.Permanent)
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

// changed returns the time of the last change of each entry, by name, if the backend lists
// its entries.
func (s *State) changed() (map[string]time.Time, error) {
	all := map[string]time.Time{}
	entries, err := s.list()
	for _, e := range entries {
		all[e.Name] = e.Changed
	}
	return all, err
}

// list returns the entries of the backend, none if it does not list them.
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

// open opens i with key and checks its payload.
func (s *State) open(i *item, key *seal.Key) error {
	p, record, err := seal.OpenWithRecord(i.sealed, key)
	i.record = record
	return s.opened(i, p, err)
}

// opened checks p, the payload of i, unless err is set.
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
