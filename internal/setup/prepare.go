package setup

import (
	"github.com/swtpm-go/swtpm/internal/algprofile"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
)

// plan is the checked input of a setup.
type plan struct {
	tpm20     manufacture.Options20
	tpm12     manufacture.Options12
	requested string // the algorithm profile as given
	profile   string // the algorithm profile for the TPM
	key       *seal.Key
	source    *seal.Source // source of the key, for another emulator
	certs     *certifier
}

func (pl *plan) close() {
	if pl.key != nil {
		_ = pl.key.Close() // its memory is cleared at the end of the process, too
	}
	pl.certs.close()
}

// prepare reads the configuration and the key, and checks the options that are not checked yet.
// After it, all options are valid.
func (p *program) prepare() (out *plan, err error) {
	o := p.o
	c, err := p.readConfig()
	if err != nil {
		return nil, err
	}
	out = &plan{tpm12: o.plan12()}
	if o.TPM2 {
		if out.requested, err = p.profileText(c); err != nil {
			return nil, err
		}
		if out.profile, err = p.reduceProfile(out.requested); err != nil {
			return nil, err
		}
	}
	source, message, err := o.keySource()
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
	out.certs.expected = out.tpm12.Certificates()
	if o.TPM2 {
		out.certs.expected = out.tpm20.Certificates()
	}
	if source != nil {
		p.log.Infof("%s", message)
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

// readKey reads the key of the state.
func (p *program) readKey(pl *plan) (err error) {
	if err := sandbox.Harden(); err != nil { // before there is a key in memory
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

// prepareCerts returns the certifier. A missing program is an error only if certificates
// were requested.
func (p *program) prepareCerts(c settings) (*certifier, error) {
	o := p.o
	if !o.EKCert && !(o.PlatformCert && o.TPM2) {
		return &certifier{}, nil // Compat: C-282: a TPM 1.2 has a platform certificate only with an EK certificate
	}
	t, err := newCertifier(c, o.LogFile == "")
	if err != nil {
		return nil, err
	}
	if t.path == "" {
		return nil, cli.Complain("Missing create_certs_tool in %s, which is needed for certificates.", p.config)
	}
	t.logFile, t.vmid, t.tpm2, t.log = o.LogFile, o.VMID, o.TPM2, p.log
	return t, nil
}

// reduceProfile removes algorithms from the profile for --profile-remove-disabled.
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
