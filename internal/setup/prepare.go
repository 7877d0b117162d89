package setup

import (
	"github.com/swtpm-go/swtpm/internal/algprofile"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
)

// plan is everything that a setup needs to know, checked.
type plan struct {
	tpm20   manufacture.Options20
	tpm12   manufacture.Options12
	asked   string // the algorithm profile as it was given
	profile string // and as the TPM gets it
	key     *seal.Key
	source  *seal.Source // where the key comes from; another emulator reads it
	certs   *certifier
}

func (pl *plan) close() {
	if pl.key != nil {
		_ = pl.key.Close() // its memory goes with the process
	}
	pl.certs.close()
}

// prepare reads the configuration and the key, and checks what is left of the
// options. After that nothing of them can be wrong.
func (p *program) prepare() (out *plan, err error) {
	o := p.o
	c, err := p.readConfig()
	if err != nil {
		return nil, err
	}
	out = &plan{tpm12: o.plan12()}
	if o.TPM2 {
		if out.asked, err = p.profileText(c); err != nil {
			return nil, err
		}
		if out.profile, err = p.reduceProfile(out.asked); err != nil {
			return nil, err
		}
	}
	source, what, err := o.keySource()
	if err != nil {
		return nil, err
	}
	if o.TPM2 {
		if out.tpm20, err = p.plan20(c); err != nil {
			return nil, err
		}
	}
	if out.certs, err = p.prepareCerts(c); err != nil {
		return nil, err
	}
	if source != nil {
		p.log.Infof("%s", what)
		out.source = source
		if p.argv == nil {
			err = p.readKey(out)
		}
	}
	if err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

func (p *program) readKey(pl *plan) (err error) {
	if err := sandbox.Harden(); err != nil { // from here on there is a key in memory
		return err
	}
	if pl.key, err = seal.ReadKey(*pl.source); err != nil {
		return err
	}
	for _, w := range pl.key.Warnings() {
		p.log.Errorf("%s", w)
	}
	return nil
}

// prepareCerts finds who issues certificates. A program that is missing is an
// error only if it is needed.
func (p *program) prepareCerts(c settings) (*certifier, error) {
	o := p.o
	if !o.EKCert && !(o.PlatformCert && o.TPM2) {
		return &certifier{}, nil // Compat: a TPM 1.2 gets no platform certificate alone
	}
	t, err := newCertifier(c, o.LogFile == "")
	if err != nil {
		return nil, err
	}
	if t.path == "" {
		return nil, cli.Complain("create_certs_tool in %s names no program, and certificates were asked for.", p.config)
	}
	t.logFile, t.vmid, t.tpm2, t.log = o.LogFile, o.VMID, o.TPM2, p.log
	return t, nil
}

// reduceProfile takes out of the profile what --profile-remove-disabled says.
func (p *program) reduceProfile(text string) (string, error) {
	if text == "" || p.o.RemoveDisable == "" {
		return text, nil
	}
	if p.argv != nil {
		return text, nil // the emulator does it
	}
	refuses := p.lib.Refuses
	if p.o.RemoveDisable == "fips-host" {
		refuses = nil
	}
	return algprofile.RemoveDisabled(text, p.caps.custom, refuses)
}
