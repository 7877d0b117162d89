package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Report describes the stored state of a TPM. Programs may depend on its JSON.
type Report struct {
	Where string `json:"where"`
	TPM   string `json:"tpm"` // "1.2", "2.0"

	// Profile is nil if the permanent state could not be opened, or has none.
	Profile *ProfileReport `json:"profile"`

	Items []ItemReport `json:"items"`

	// Others are temporary files that were left by processes that were killed.
	Others []string `json:"others"`

	// Interrupted reports an interrupted change of several items. The next start,
	// or verb that writes, completes it.
	Interrupted bool `json:"interrupted"`
}

// ProfileReport is the algorithm profile of a TPM 2.0.
type ProfileReport struct {
	Name  string `json:"name"`
	Level int    `json:"stateFormatLevel"`
}

// ItemReport describes one item. Unknown fields are empty.
type ItemReport struct {
	Name       string `json:"name"`
	Bytes      int    `json:"bytes"`
	Changed    string `json:"changed,omitempty"` // RFC 3339, UTC
	Container  int    `json:"container"`         // version: 2; 1 before April 2018
	Encryption string `json:"encryption"`        // "none", "aes-128-cbc", "aes-256-cbc"
	Key        string `json:"key"`               // one of the words below
	Checksum   string `json:"checksum"`          // "none", "right", "wrong"
	Writer     string `json:"writer"`
	Payload    int    `json:"payload,omitempty"` // bytes of libtpms's part
	Problem    string `json:"problem,omitempty"`

	unread string // why a reader cannot describe the item, in a word or two; "" if it could be loaded

	// History is nil if the item has no record. It is authenticated if Key is "fits".
	History *HistoryReport `json:"history"`
}

// HistoryReport is the record of an item.
type HistoryReport struct {
	Identity   string `json:"identity"`
	Generation uint64 `json:"generation"`
	Stored     string `json:"stored"` // RFC 3339, UTC
	Host       string `json:"host"`
	Program    string `json:"program"`
	Epoch      uint64 `json:"epoch"`
}

// The values of ItemReport.Key.
const (
	keyNotNeeded = "not needed"
	keyNotGiven  = "not given"
	keyFits      = "fits"
	keyDoesNot   = "does not fit"
	keyTooMany   = "given, but the state is plain"
)

// The values of ItemReport.Writer. An encrypted item does not show its writer.
const (
	writerOurs   = "swtpm-go"
	writerSwtpm  = "swtpm"
	writerEither = "swtpm or swtpm-go"
	writerOld    = "swtpm before 0.1, of 2018"
)

// Inspect describes the stored state, without the key in less detail.
func (s *State) Inspect() (*Report, error) {
	r := &Report{Where: s.where, TPM: s.version.String(), Items: []ItemReport{}, Others: []string{}}
	entries, err := s.list()
	if err != nil {
		return nil, err
	}
	there := map[string]nv.Entry{}
	for _, e := range entries {
		there[e.Name] = e
		switch e.Role {
		case nv.RoleTemporary:
			r.Others = append(r.Others, e.Name)
		case nv.RoleUnfinished:
			r.Interrupted = true
		}
	}
	for _, i := range s.names() {
		blob, err := s.b.Load(s.prefix + i.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		entry, exists := there[s.prefix+i.name]
		i.sealed, i.changed = blob, entry.Changed
		switch lost := errors.Is(err, nv.ErrDamaged) && !exists; {
		case err == nil:
			r.add(s, i)
		case lost && i.name != nv.Permanent && s.location.Kind == nv.Cluster: // a damaged state is an error for any item
		default:
			r.addUnread(i, entry.Size, lost, err)
		}
		wipe([]item{i})
	}
	if len(r.Items) == 0 && len(r.Others) == 0 && !r.Interrupted {
		return nil, fmt.Errorf("%s: %w of version %s", s.where, ErrNone, s.version)
	}
	return r, nil
}

// addUnread adds an item that could not be loaded because of err.
func (r *Report) addUnread(i item, size int64, lost bool, err error) {
	out := i.report(int(size))
	out.Problem, out.unread = err.Error(), "not readable"
	switch {
	case lost:
		out.unread = "missing"
	case errors.Is(err, nv.ErrDamaged):
		out.unread = "damaged"
	}
	r.Items = append(r.Items, out)
}

// report returns the beginning of the report about i.
func (i *item) report(size int) ItemReport {
	out := ItemReport{Name: i.name, Bytes: size}
	if !i.changed.IsZero() {
		out.Changed = i.changed.UTC().Format(time.RFC3339)
	}
	return out
}

// add adds i, which was loaded, to the report.
func (r *Report) add(s *State, i item) {
	out := i.report(len(i.sealed))
	info, err := seal.DescribeFile(i.sealed)
	out.describe(info, s.key)
	if err == nil || info.Checksum != seal.NoChecksum {
		out.describeWriter(info)
	}
	if err == nil && out.Key != keyNotGiven && out.Key != keyTooMany {
		err = r.open(s, i, &out)
	}
	if err != nil {
		out.Problem = err.Error()
	}
	r.Items = append(r.Items, out)
}

// describe sets the fields that need no key.
func (i *ItemReport) describe(info seal.FileInfo, key *seal.Key) {
	i.Container = int(info.Version)
	if r, err := generation.Decode(info.Record); err == nil {
		i.History = &HistoryReport{r.Identity.String(), r.Generation, r.Time.Format(time.RFC3339), r.Writer.Host, r.Writer.Program, r.Writer.Epoch}
	}
	i.Encryption = "none"
	if info.Bits > 0 {
		i.Encryption = fmt.Sprintf("aes-%d-cbc", info.Bits)
	}
	switch {
	case info.Bits == 0 && key == nil:
		i.Key = keyNotNeeded
	case info.Bits == 0 && info.Version > 1:
		i.Key = keyTooMany
	case key == nil:
		i.Key = keyNotGiven
	}
}

// describeWriter sets Checksum and Writer. They are unknown if the end of the item may be missing, because
// the checksum is the last block.
func (i *ItemReport) describeWriter(info seal.FileInfo) {
	i.Checksum = string(info.Checksum)
	switch {
	case info.Version == 1:
		i.Writer = writerOld
	case info.Checksum != seal.NoChecksum:
		i.Writer = writerOurs
	case info.Bits > 0:
		i.Writer = writerEither
	case info.Version == 2:
		i.Writer = writerSwtpm
	}
}

// open opens i and sets the fields about its payload.
func (r *Report) open(s *State, i item, out *ItemReport) error {
	p, err := seal.Open(i.sealed, s.key)
	switch {
	case err != nil && s.key != nil:
		out.Key = keyDoesNot
		return err
	case err != nil:
		return err
	case s.key != nil:
		out.Key = keyFits
	}
	defer seal.Wipe(p)
	out.Payload = len(p)
	if i.name != nv.Permanent {
		return payload.Check(s.version, i.blob, p)
	}
	sum, err := payload.Describe(s.version, p)
	if err == nil && s.version == tpm.V20 {
		r.Profile = &ProfileReport{Name: sum.Profile, Level: sum.Level}
	}
	return err
}
