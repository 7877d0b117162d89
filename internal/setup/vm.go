package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// needed is the option that a command line with profiles may begin with.
const needed = "--needed"

// byProfile says whether a command line names profiles rather than options of
// swtpm_setup, which has no words that are no options.
func byProfile(args []string) bool {
	return len(args) > 0 && (args[0] == needed || args[0] != "" && args[0][0] != '-')
}

// vmOptions are a command line with profiles.
type vmOptions struct {
	needed   bool
	jobs     string
	register string
	help     bool
}

func (v *vmOptions) table() []cli.Option {
	return []cli.Option{
		{Name: "needed", Set: yes(&v.needed), Help: "A profile without [manufacture] needs nothing;\nwithout the option that is an error."},
		{Name: "jobs", Arg: "<n>", Set: text(&v.jobs), Help: "So many TPMs at once. Default: one for each core."},
		{Name: "inventory", Arg: "<file>", Set: text(&v.register), Help: "As above."},
		{Name: "help", Short: "h?", Set: func(_, _ string) error { v.help = true; return cli.ErrStop }, Help: "As above."},
	}
}

// vm is a TPM that a profile describes.
type vm struct {
	name string
	cfg  *config.Config
}

// runProfiles manufactures the TPMs of profiles: one in this process, several in
// one process each.
func (p *program) runProfiles(ctx context.Context, args []string) error {
	v := &vmOptions{}
	names, err := cli.ParseLong(v.table(), args)
	switch {
	case err != nil:
		return err
	case v.help:
		p.usage()
		return nil
	case len(names) == 0:
		return cli.GetoptError("there is no profile behind '" + needed + "'")
	}
	limit, err := v.limit()
	if err != nil {
		return err
	}
	vms, err := p.load(names, v.needed)
	if err != nil {
		return err
	}
	switch len(vms) {
	case 0:
		return nil
	case 1:
		return p.runOne(ctx, vms[0], v.register)
	}
	return p.runMany(ctx, vms, limit, v)
}

// load reads the profiles, all of them before anything is made. Mistakes have
// been told.
func (p *program) load(names []string, needed bool) (vms []vm, err error) {
	states := map[nv.Location]string{}
	for _, name := range names {
		cfg, bad := loadOne(name)
		switch {
		case bad == nil && !cfg.Manufacture.Given && needed:
			continue
		case bad == nil && !cfg.Manufacture.Given:
			bad = cli.Complain("%s: the profile has no [manufacture]; nothing is to be made.", name)
		case bad == nil && states[cfg.State.Location] != "":
			bad = cli.Complain("%s: its state is in %s, as that of %s.", name, cfg.State.Location, states[cfg.State.Location])
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
func (p *program) runOne(ctx context.Context, v vm, register string) error {
	o, err := fromProfile(v.cfg)
	if err != nil {
		return err
	}
	o.Register = register
	p.o = o
	p.chooseConfig()
	if err := mayOwn(v.cfg); err != nil {
		return err
	}
	return p.carryOut(ctx)
}

// fromProfile returns the options that say what a profile says.
func fromProfile(c *config.Config) (*Options, error) {
	m := c.Manufacture
	s := c.State
	o := &Options{
		marked: true, create: s.Create,
		nv:    s.Storage(),
		State: s.Location.String(), TPM2: c.TPM == tpm.V20, RunAs: c.Sandbox.User, VMID: m.VMID, Config: m.Config, CertDir: m.CertFiles,
		CreateEK: true, EKCert: m.EKCert, PlatformCert: m.PlatformCert, AllowSigning: m.AllowSigning, Decryption: m.Decryption,
		IAK: m.IAK, IDevID: m.IDevID, CreateSPK: m.SPK != "", ECC: m.SPK == "ecc", LockNVRAM: m.LockNVRAM,
		TakeOwnership: m.TakeOwnership, OwnerKnown: m.OwnerWellKnown, SRKKnown: m.SRKWellKnown,
	}
	if m.EK != "" && o.TPM2 { // else the configuration file may say it
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

// takeAlgorithms has o say what [profile] says.
func (o *Options) takeAlgorithms(a config.AlgorithmProfile) {
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
	o.at = []string{"profile"}
	o.RemoveDisable = a.RemoveDisabled
}

// takeKey has o say what [key] says. The file stays: the emulator reads it too.
func (o *Options) takeKey(k config.Key) error {
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

// mayOwn refuses to make as root what the emulator could not use then: it runs
// as the owner of its directory.
func mayOwn(c *config.Config) error {
	dir, isDir := c.State.Location.Dir()
	if os.Geteuid() != 0 || c.Sandbox.User != "" || !isDir {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid == 0 {
		return nil // what else is wrong is told later
	}
	who := strconv.Itoa(int(st.Uid))
	if u, err := user.LookupId(who); err == nil {
		who = u.Username
	}
	return cli.Complain("%s belongs to %s and not to root, who would own the TPM: run this as that user, or name it in [sandbox] user.", dir, who)
}

// makeDir makes the directory of the place if it is missing and the profile says
// that it is to be made.
func (l *location) makeDir() error {
	if !l.create {
		return nil
	}
	if err := os.MkdirAll(l.path, 0o700); err != nil {
		return fmt.Errorf("create the state directory: %w", err)
	}
	return nil
}

// missing says whether the directory of the place is to be made, and can be.
func (l *location) missing() bool {
	if !l.create || !l.isDir() {
		return false
	}
	_, err := os.Stat(l.path)
	above := filepath.Dir(l.path)
	for errors.Is(err, fs.ErrNotExist) {
		if _, up := os.Stat(above); !errors.Is(up, fs.ErrNotExist) || above == filepath.Dir(above) {
			return unix.Access(above, unix.W_OK|unix.X_OK) == nil
		}
		above = filepath.Dir(above)
	}
	return false
}
