package setup

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// needed is the first option of a command line with profiles.
const needed = "--needed"

// byProfile reports whether a command line has profiles. swtpm_setup has only options.
func byProfile(args []string) bool {
	return len(args) > 0 && (args[0] == needed || args[0] != "" && args[0][0] != '-')
}

// vmOptions is a command line with profiles.
type vmOptions struct {
	needed   bool
	jobs     string
	register string
	help     bool

	overwrite bool
	ownerPass *string
	clone     cloneOptions
}

func (v *vmOptions) table() []cli.Option {
	return append([]cli.Option{
		{Name: "needed", Set: enable(&v.needed), Help: "Skip profiles without [manufacture], which are an\nerror otherwise."},
		{Name: "jobs", Arg: "<n>", Set: text(&v.jobs), Help: "Create this many TPMs at once. Default: one per core."},
		{Name: "inventory", Arg: "<file>", Set: text(&v.register), Help: "As above."},
		{Name: "help", Short: "h?", Set: func(_, _ string) error { v.help = true; return cli.ErrStop }, Help: "As above."},
		{Name: "overwrite", Set: enable(&v.overwrite), Help: "With --clone: as above."},
		{Name: "ownerpass", Arg: "<password>", Set: given(&v.ownerPass), Help: "With --clone: the owner's password of the source."},
	}, v.clone.table()...)
}

// vm is a TPM that a profile describes.
type vm struct {
	name string
	cfg  *config.Config
}

// runProfiles manufactures the TPMs of profiles: a single one in this process, several
// in a process each.
func (p *program) runProfiles(ctx context.Context, args []string) error {
	v := &vmOptions{}
	names, err := cli.Getopt{}.Parse(v.table(), args)
	switch {
	case err != nil:
		return err
	case v.help:
		p.usage()
		return nil
	case len(names) == 0:
		return cli.GetoptError("missing PROFILE after '" + needed + "'")
	}
	limit, err := v.limit()
	if err != nil {
		return err
	}
	if err := v.clone.check(); err != nil {
		return err
	}
	cloned := v.clone.From != ""
	if cloned && len(names) > 1 || !cloned && (v.overwrite || v.ownerPass != nil) {
		return cli.Complain("--clone needs exactly one profile; --overwrite and --ownerpass of a profile need --clone.")
	}
	vms, err := p.load(names, v.needed, cloned)
	if err != nil {
		return err
	}
	switch len(vms) {
	case 0:
		return nil
	case 1:
		return p.runOne(ctx, vms[0], v)
	}
	return p.runMany(ctx, vms, limit, v)
}

// load reads all profiles before the first TPM is created. It has already reported the
// errors in them.
func (p *program) load(names []string, needed, cloned bool) (vms []vm, err error) {
	states := map[nv.Location]string{}
	for _, name := range names {
		cfg, bad := loadOne(name)
		switch {
		case bad == nil && !cfg.Manufacture.Given && needed:
			continue
		case bad == nil && !cfg.Manufacture.Given && !cloned:
			bad = cli.Complain("%s: missing [manufacture] in the profile; nothing to create.", name)
		case bad == nil && states[cfg.State.Location] != "":
			bad = cli.Complain("%s: the state location %s is also used by %s.", name, cfg.State.Location, states[cfg.State.Location])
		}
		if bad != nil {
			p.log.Errorf("%v", bad)
			err = errReported
			continue
		}
		states[cfg.State.Location] = name
		vms = append(vms, vm{name, cfg})
	}
	return vms, err
}

func loadOne(name string) (*config.Config, error) {
	file, instance, err := config.FindProfile(name)
	if err != nil {
		return nil, err
	}
	return config.LoadProfile(file, instance)
}

// runOne manufactures the TPM of one profile in this process.
func (p *program) runOne(ctx context.Context, v vm, how *vmOptions) error {
	o, err := fromProfile(v.cfg)
	if err != nil {
		return err
	}
	o.Register, o.Clone = how.register, how.clone
	if o.Clone.From != "" {
		o.Overwrite, o.OwnerPass = how.overwrite, how.ownerPass
		o.marked = v.cfg.Manufacture.Given
	}
	p.o = o
	p.chooseConfig()
	if err := mayOwn(v.cfg); err != nil {
		return err
	}
	return p.execute(ctx)
}

// fromProfile returns the options that correspond to a profile.
func fromProfile(c *config.Config) (*options, error) {
	m := c.Manufacture
	s := c.State
	o := &options{
		marked: true, fromProfile: true, create: s.Create,
		nv: s.Storage(), plain: s.Plain,
		State: s.Location.String(), TPM2: c.TPM == tpm.V20, RunAs: c.Sandbox.User, VMID: m.VMID, Config: m.Config, CertDir: m.CertFiles,
		CreateEK: true, EKCert: m.EKCert, PlatformCert: m.PlatformCert, AllowSigning: m.AllowSigning, Decryption: m.Decryption,
		IAK: m.IAK, IDevID: m.IDevID, CreateSPK: m.SPK != "", ECC: m.SPK == "ecc", LockNVRAM: m.LockNVRAM,
		TakeOwnership: m.TakeOwnership, OwnerKnown: m.OwnerWellKnown, SRKKnown: m.SRKWellKnown,
	}
	if m.EK != "" && o.TPM2 { // otherwise the configuration file applies
		eks := c.EKs()
		o.EK1, o.EK2 = eks[0], eks[len(eks)-1]
	}
	o.PCRBanks, o.PCRBanksGiven = m.PCRBanks, m.PCRBanks != ""
	if m.OwnerPass != "" {
		o.OwnerPass = &m.OwnerPass
	}
	if m.SRKPass != "" {
		o.SRKPass = &m.SRKPass
	}
	o.takeAlgorithms(c.Profile)
	return o, o.takeKey(c.Key)
}

// takeAlgorithms sets the options that correspond to [profile].
func (o *options) takeAlgorithms(a config.AlgorithmProfile) {
	switch a.Source {
	case config.NoProfile:
		return
	case config.ProfileText:
		o.Profile = a.Text
	case config.ProfileName:
		o.ProfileName = a.Text
	case config.ProfileFile:
		o.ProfileFile = a.Text
	case config.ProfileFD:
		o.ProfileFD = strconv.Itoa(a.FD)
	}
	o.profileOptions = []string{"profile"}
	o.RemoveDisable = a.RemoveDisabled
}

// takeKey sets the options that correspond to [key]. It ignores the setting that removes the file,
// which the emulator reads later.
func (o *options) takeKey(k config.Key) error {
	if k.Source == config.NoKey {
		return nil
	}
	path := k.Path
	if k.Source == config.KeyCredential {
		var err error
		if path, err = daemon.Credential(k.Name); err != nil {
			return fmt.Errorf("[key] credential: %w", err)
		}
	}
	o.source = &seal.Source{
		Path: path, FD: k.FD, Hex: k.Hex, KDF: k.KDF, Bits: k.Bits,
		Passphrase: k.Source == config.PassFile || k.Source == config.PassFD,
	}
	return nil
}

// mayOwn returns an error if root would create a TPM that the emulator, which runs as the
// owner of the directory, could not use.
func mayOwn(c *config.Config) error {
	dir, isDir := c.State.Location.Dir()
	if os.Geteuid() != 0 || c.Sandbox.User != "" || !isDir {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid == 0 {
		return nil // other problems are reported later
	}
	owner := strconv.Itoa(int(st.Uid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	return cli.Complain("%s belongs to %s, but root would own the new TPM: run this as %[2]s, or set [sandbox] user.", dir, owner)
}
