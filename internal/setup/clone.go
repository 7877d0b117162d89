package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/offline"
	prog "github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// cloneOptions says what TPM is cloned, and how.
type cloneOptions struct {
	From  string // --clone: a profile, dir://PATH, file://PATH or store://NAME; "" for no clone
	Key   string // --clone-key
	New   bool   // --new-identity, the default
	Keep  bool   // --keep-identity
	Reset bool   // --reset
	Plain bool   // --plain: the copy of an encrypted TPM may be plain
}

// table returns the options of a clone.
func (c *cloneOptions) table() []cli.Option {
	return []cli.Option{
		{Name: "clone", Arg: "<source>", Own: true, Set: text(&c.From), Help: "Create a copy of this TPM, which must be off:\na profile, dir://PATH, file://PATH or store://NAME.\nIt does not change."},
		{Name: "clone-key", Arg: "<suboptions>", Own: true, Set: text(&c.Key), Help: "The key of the source, in the format of --key of\nswtpm socket. Default: the profile's."},
		{Name: "new-identity", Own: true, Set: enable(&c.New), Help: "With --clone: new EKs and certificates, the default.\nOwner hierarchy and NV memory stay."},
		{Name: "keep-identity", Own: true, Set: enable(&c.Keep), Help: "With --clone: copy everything, to move the TPM."},
		{Name: "plain", Own: true, Set: enable(&c.Plain), Help: "With --clone: store the copy of an encrypted TPM\nunencrypted if no key is given for it."},
		{Name: "reset", Own: true, Set: enable(&c.Reset), Help: "With --clone: create a new TPM with the algorithms,\nkey types and certificate types of the source."},
	}
}

// check checks that the options fit together.
func (c *cloneOptions) check() error {
	n := 0
	for _, given := range []bool{c.New, c.Keep, c.Reset} {
		if given {
			n++
		}
	}
	switch {
	case n > 1:
		return cli.Complain("Only one of --new-identity, --keep-identity and --reset may be given.")
	case c.From == "" && (n > 0 || c.Key != "" || c.Plain):
		return cli.Complain("--new-identity, --keep-identity, --reset, --plain and --clone-key require --clone.")
	}
	return nil
}

// renews reports whether the clone is a copy with a new identity.
func (c *cloneOptions) renews() bool { return c.From != "" && !c.Keep && !c.Reset }

// original is the TPM that is cloned, as it was read.
type original struct {
	version  tpm.Version
	sealed   bool             // it is stored encrypted
	archive  *offline.Archive // all of it
	payload  []byte           // its permanent state
	identity *manufacture.Identity
}

// wipe clears the secrets.
func (o *original) wipe() {
	o.archive.Wipe()
	seal.Wipe(o.payload)
}

// checkClone checks the options that contradict --clone.
func (p *program) checkClone() error {
	o := p.o
	if err := o.Clone.check(); err != nil || o.Clone.From == "" {
		return err
	}
	switch {
	case o.Program != "":
		return cli.Complain("--clone does not support --tpm.")
	case o.Reconfigure || len(o.profileOptions) > 0 && !o.fromProfile || o.PCRBanksGiven && !o.fromProfile:
		return cli.Complain("--clone takes algorithms and PCR banks from the source; remove --reconfigure, --profile* and --pcr-banks.")
	case !o.fromProfile && (o.CreateEK || o.CreateSPK || o.IAK != "" || o.IDevID != "" || o.EK1 != "" || o.EK2 != ""):
		return cli.Complain("--clone takes keys and certificates from the source; remove the options that create them.")
	}
	return nil
}

// readOriginal reads the source of a clone and sets the options that follow from it.
func (p *program) readOriginal(ctx context.Context) error {
	o := p.o
	if err := sandbox.Harden(); err != nil { // before there is a secret in memory
		return err
	}
	var err error
	if p.original, err = p.openOriginal(); err != nil {
		return cli.Complain("Could not read the source: %v", doctor.AppendRemedy(err, doctor.Path(err)))
	}
	if o.fromProfile && o.version() != p.original.version {
		return cli.Complain("The source is a TPM %s, but the profile is for a TPM %s.", p.original.version, o.version())
	}
	if p.original.sealed && !o.hasKey() && !o.Clone.Plain {
		return cli.Complain("The source is encrypted, and the copy would be stored in the clear: give a key for the copy, with --keyfile, --pwdfile or [key] of its profile, or --plain.")
	}
	o.TPM2 = p.original.version == tpm.V20
	if o.Clone.Keep {
		return nil
	}
	if !o.TPM2 {
		return cli.Complain("A TPM 1.2 cannot get a new identity: it has no command for a new endorsement key that leaves its owner. Use --keep-identity, or create a new TPM.")
	}
	return p.readIdentity(ctx)
}

// openOriginal locks, opens and reads the source. It fails if the TPM is running, because then
// its emulator holds the lock.
func (p *program) openOriginal() (*original, error) {
	loc, how, version, key, err := p.findOriginal()
	if err != nil {
		return nil, err
	}
	if key != nil {
		defer key.Close()
	}
	s, err := offline.Open(offline.Options{
		Open: func(prefix string, ro bool) (nv.Backend, error) {
			o := how
			o.Prefix, o.ReadOnly, o.Lock, o.Backup, o.Adopt, o.Warn = prefix, ro, true, false, true, p.log.Errorf
			return backend.Open(loc, o)
		},
		Where: loc.String(), Writer: generation.ThisHost(prog.Name), ReadOnly: true, Version: version, Key: key,
	})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	src := &original{version: s.Version()}
	if src.sealed, err = s.Encrypted(); err != nil {
		return nil, err
	}
	src.archive, err = s.Export(false, "swtpm-go "+prog.Version)
	switch {
	case errors.Is(err, seal.ErrMAC) || errors.Is(err, seal.ErrKeySize):
		return nil, fmt.Errorf("%w; check the key and its mode: swtpm state clone --key, swtpm_setup --clone-key", err)
	case err != nil && src.sealed && key == nil:
		return nil, fmt.Errorf("%w; give its key: swtpm state clone --key, swtpm_setup --clone-key", err)
	case err != nil:
		return nil, err
	}
	if src.payload, err = s.Permanent(); err != nil {
		src.wipe()
		return nil, err
	}
	return src, nil
}

// findOriginal returns where the source is, its version, 0 if that is unknown, and its key,
// nil if it has none.
func (p *program) findOriginal() (loc nv.Location, how nv.Options, version tpm.Version, key *seal.Key, err error) {
	name := p.o.Clone.From
	var k config.Key
	if loc = nv.ParseLocation(name); loc.Kind != nv.Directory && loc.Kind != nv.File && loc.Kind != nv.Cluster {
		cfg, err := loadOne(name)
		if err != nil {
			return loc, how, 0, nil, err
		}
		loc, how, version, k = cfg.State.Location, cfg.State.Storage(), cfg.TPM, cfg.Key
	}
	if p.o.Clone.Key != "" {
		if k, err = config.ParseKey(p.o.Clone.Key); err != nil {
			return loc, how, 0, nil, fmt.Errorf("--clone-key: %w", err)
		}
	}
	from := &options{}
	if err = from.takeKey(k); err == nil && from.source != nil {
		key, err = seal.ReadKey(*from.source)
	}
	return loc, how, version, key, err
}

// backend returns a backend in memory with the permanent state of the source. It has the record of
// another TPM, whose generations are above last.
func (o *original) backend(key *seal.Key, last uint64) (nv.Backend, error) {
	b := nv.Scratch(nil)
	r := generation.Record{Identity: generation.NewIdentity(), Item: generation.Permanent, Generation: last + 1, Time: time.Now()}
	r.Known.Raise(r.Item, r.Generation)
	sealed, err := seal.SealInto(nil, o.payload, r.Append(nil), key)
	if err != nil {
		return nil, err
	}
	return b, b.Store(o.version.FilePrefix()+nv.Permanent, sealed)
}

// readIdentity starts the source in memory and sets the options for its keys and
// certificates.
func (p *program) readIdentity(ctx context.Context) (err error) {
	from, err := p.original.backend(nil, 0)
	if err != nil {
		return err
	}
	loc := parseLocation(p.o.Clone.From, tpm.V20)
	m, err := startEngine(ctx, p.lib, loc, from, nil, "", p.log)
	if err != nil {
		return fmt.Errorf("could not start the source: %w", err)
	}
	defer func() { err = errors.Join(err, m.close()) }()
	id, err := manufacture.ReadIdentity(ctx, m)
	if err != nil {
		return fmt.Errorf("could not read the identity of the source: %w", err)
	}
	p.original.identity = id
	o, made := p.o, id.Options()
	o.CreateEK, o.EKCert, o.PlatformCert = made.EK1 != manufacture.None, made.EKCert, made.PlatformCert
	if !o.Clone.Reset {
		return nil
	}
	o.AllowSigning, o.Decryption, o.LockNVRAM, o.CreateSPK = made.Signing, made.Decryption, made.Lock, false
	o.PCRBanks, o.PCRBanksGiven = strings.Join(id.Banks, ","), true
	for _, k := range []struct {
		to *string
		a  manufacture.Algorithm
	}{{&o.EK1, made.EK1}, {&o.EK2, made.EK2}, {&o.IAK, made.IAK}, {&o.IDevID, made.IDevID}} {
		*k.to = ""
		if k.a != manufacture.None {
			*k.to = k.a.Name()
		}
	}
	return p.copyProfile(ctx, m)
}

// copyProfile sets the algorithm profile of the source. It copies the whole text of a custom
// profile. Of the others it copies only the name, which determines the rest.
func (p *program) copyProfile(ctx context.Context, m emulator) error {
	p.o.Profile, p.o.ProfileName, p.o.ProfileFile, p.o.ProfileFD, p.o.profileOptions = "", "", "", "", nil
	if !p.lib.HasProfiles {
		return nil
	}
	info, err := m.Info(ctx, infoActive)
	if err != nil {
		return err
	}
	var active struct{ ActiveProfile json.RawMessage }
	var named struct{ Name string }
	if err := json.Unmarshal([]byte(info), &active); err != nil {
		return fmt.Errorf("invalid profile of the source: %w", err)
	}
	if err := json.Unmarshal(active.ActiveProfile, &named); err != nil {
		return fmt.Errorf("invalid profile of the source: %w", err)
	}
	p.o.Profile = string(active.ActiveProfile)
	if !strings.HasPrefix(named.Name, "custom") {
		b, err := json.Marshal(named)
		if err != nil {
			return err
		}
		p.o.Profile = string(b)
	}
	p.o.profileOptions = []string{"profile"}
	return nil
}

// renew gives the copy in m its new identity.
func (p *program) renew(ctx context.Context, j *manufacture.Job) error {
	var owner []byte
	if p.o.OwnerPass != nil {
		owner = []byte(*p.o.OwnerPass)
	}
	return manufacture.Renew20(ctx, j, p.original.identity, owner)
}

// move copies the source with its identity.
func (p *program) move(loc *location, key *seal.Key) (err error) {
	if err := loc.makeDir(); err != nil {
		return err
	}
	s, err := offline.Open(offline.Options{
		Open: func(prefix string, ro bool) (nv.Backend, error) {
			o := loc.options
			o.Prefix, o.ReadOnly, o.Lock, o.Warn = prefix, ro, true, p.log.Errorf
			return backend.Open(loc.Location, o)
		},
		Where: loc.Location.String(), Writer: generation.ThisHost(prog.Name), Version: loc.version, Key: key,
		Location: loc.Location, Plain: p.o.plain,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Import(p.original.archive, p.lib.Engine, p.o.Overwrite); err != nil {
		return err
	}
	p.log.Infof("Copied the TPM with its identity to %s: never start both.", loc.Location)
	return nil
}
