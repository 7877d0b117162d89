package setup

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// defaultBanks are the default PCR banks of a TPM 2.0.
const defaultBanks = "sha256"

// The default passwords of the owner and the SRK of a TPM 1.2.
const (
	defaultOwnerPass = "ooo"
	defaultSRKPass   = "sss"
)

// checkVersion returns an error for an option that needs the other version of TPM.
func (o *options) checkVersion() error {
	if o.TPM2 {
		if o.TakeOwnership {
			return cli.Complain("Taking ownership is not supported for TPM 2.")
		}
		return nil
	}
	for _, option := range []struct {
		given bool
		name  string
	}{
		{o.ECC, "ecc"}, {o.CreateSPK, "create-spk"}, {o.Reconfigure, "reconfigure"},
		{o.AllowSigning, "allow-signing"}, {o.Decryption, "decryption"}, {o.PCRBanksGiven, "pcr-banks"},
	} {
		if option.given {
			return cli.Complain("--%s requires --tpm2.", option.name)
		}
	}
	if len(o.profileOptions) > 0 {
		return cli.Complain("There's no --profile support for TPM 1.2")
	}
	return nil
}

// checkConflicts returns an error for options that exclude one another.
func (o *options) checkConflicts() error {
	switch {
	case o.Reconfigure && o.CreateEK:
		return cli.Complain("Reconfiguration is not supported with creation of EK or certificates")
	case o.Reconfigure && len(o.profileOptions) > 0:
		return cli.Complain("Reconfiguration does not accept a (new) profile.")
	case len(o.profileOptions) > 1:
		return cli.Complain("Only one of --profile, --profile-name, --profile-file, and --profile-file-fd may be given.")
	}
	switch o.RemoveDisable {
	case "", "check", "fips-host":
	default:
		return cli.Complain("Unsupported parameter for --profile-remove-disabled: %s", o.RemoveDisable)
	}
	return nil
}

// plan20 returns the contents of a TPM 2.0, from options and configuration.
func (p *program) plan20(c settings) (manufacture.Options20, error) {
	o := p.o
	plan := manufacture.Options20{Lock: o.LockNVRAM, Banks: pcrBanks(o, c)}
	if o.Reconfigure || o.Clone.renews() {
		return plan, nil
	}
	plan.Signing, plan.Decryption, plan.SPK, plan.SPKECC = o.AllowSigning, o.Decryption, o.CreateSPK, o.ECC
	plan.EKCert, plan.PlatformCert = o.EKCert, o.PlatformCert
	size, err := p.rsaKeySize(c)
	if err != nil {
		return plan, err
	}
	ek1, ek2 := "rsa"+size, "secp384r1"
	for _, a := range []struct {
		to           *manufacture.Algorithm
		option, conf string
		fallback     string
		wanted       bool
	}{
		{&plan.EK1, o.EK1, "ek1keyalgo", ek1, o.CreateEK},
		{&plan.EK2, o.EK2, "ek2keyalgo", ek2, o.CreateEK},
		{&plan.IAK, o.IAK, "iakkeyalgo", "", true},
		{&plan.IDevID, o.IDevID, "idevidkeyalgo", "", true},
	} {
		name := a.option
		if name == "" {
			name = c.value(a.conf, a.fallback)
		}
		if name == "" {
			continue
		}
		alg, ok := manufacture.ParseAlgorithm(name)
		if !ok {
			return plan, cli.Complain("Key algorithm %s is not supported.", name)
		}
		if bits := alg.Bits(); a.wanted && bits > 0 && !slices.Contains(p.caps.rsaSizes, fmt.Sprint(bits)) {
			return plan, cli.Complain("%d bit RSA keys are not supported by libtpms.", bits)
		}
		if a.wanted {
			*a.to = alg
		}
	}
	if !plan.EKCert && (plan.IAK != manufacture.None || plan.IDevID != manufacture.None) {
		return plan, cli.Complain("When creating IAK and/or IDevID keys, then an EK certificate must be created as well.")
	}
	return plan, nil
}

// rsaKeySize returns the size of the first EK in bits, unless its algorithm is given.
func (p *program) rsaKeySize(c settings) (string, error) {
	size := p.o.RSAKeySize
	if size == "" {
		size = c.value("rsa_keysize", "2048")
	}
	switch size {
	case "2048", "3072", "4096":
		return size, nil
	case "max":
		if n := len(p.caps.rsaSizes); n > 0 {
			return p.caps.rsaSizes[n-1], nil
		}
		return "2048", nil
	}
	// Compat: C-268: swtpm_setup prints this one on stdout.
	p.log.Infof("Unsupported RSA key size %s.", size)
	return "", errReported
}

// pcrBanks returns the banks to activate; nil for no change.
func pcrBanks(o *options, c settings) []string {
	list := strings.Trim(o.PCRBanks, " \t")
	if list == "" {
		list = c.value("active_pcr_banks", defaultBanks)
	}
	if list == "-" {
		return nil
	}
	banks := []string{}
	for _, b := range strings.Split(list, ",") {
		banks = append(banks, strings.Trim(b, " \t\n\v\f\r"))
	}
	return banks
}

// plan12 returns the contents of a TPM 1.2.
func (o *options) plan12() manufacture.Options12 {
	auth := func(pass *string, known bool, fallback string) manufacture.Auth {
		switch {
		case known:
			return manufacture.WellKnown()
		case pass != nil:
			return manufacture.Password(*pass)
		}
		return manufacture.Password(fallback)
	}
	return manufacture.Options12{
		EK: o.CreateEK, Owner: o.TakeOwnership, EKCert: o.EKCert, PlatformCert: o.PlatformCert, LockNV: o.LockNVRAM,
		OwnerAuth: auth(o.OwnerPass, o.OwnerKnown, defaultOwnerPass),
		SRKAuth:   auth(o.SRKPass, o.SRKKnown, defaultSRKPass),
	}
}

func (o *options) version() tpm.Version {
	if o.TPM2 {
		return tpm.V20
	}
	return tpm.V12
}

// parseFD reads the number of a descriptor.
func parseFD(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == math.MaxInt32 {
		return 0, cli.Complain("Invalid file descriptor '%s'", s)
	}
	if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err != nil {
		return 0, cli.Complain("Descriptor %s was not passed to this program: %s", s, cli.Strerror(err))
	}
	return int(n), nil
}

// hasKey reports whether the options name a key of the state.
func (o *options) hasKey() bool { return o.source != nil || o.KeyFile+o.PwdFile+o.KeyFD+o.PwdFD != "" }

// keySource returns the source of the key of the state, nil for an unencrypted state,
// and the message for it.
func (o *options) keySource() (source *seal.Source, message string, err error) {
	const text = "  The TPM's state will be encrypted %s."
	const key, pass = "with a provided key", "using a key derived from a passphrase"
	if o.source != nil {
		message = key
		if o.source.Passphrase {
			message = pass
		}
		return o.source, fmt.Sprintf(text, message), nil
	}
	bits := 0
	switch o.Cipher {
	case "", "aes-128-cbc", "aes-cbc":
		bits = 128
	case "aes-256-cbc":
		bits = 256
	default:
		return nil, "", cli.Complain("Unsupported cipher %s.", o.Cipher)
	}
	s := seal.Source{Bits: bits, Hex: true, KDF: "pbkdf2"}
	switch {
	case o.KeyFile != "":
		if unix.Access(o.KeyFile, unix.R_OK) != nil {
			return nil, "", cli.Complain("User %s cannot read keyfile %s.", cli.UserName(), o.KeyFile)
		}
		s.Path, message = o.KeyFile, key
	case o.PwdFile != "":
		if unix.Access(o.PwdFile, unix.R_OK) != nil {
			return nil, "", cli.Complain("User %s cannot read passphrase file %s.", cli.UserName(), o.PwdFile)
		}
		s.Path, s.Passphrase, message = o.PwdFile, true, pass
	case o.KeyFD != "":
		s.FD, err = parseFD(o.KeyFD)
		message = key + " (fd)"
	case o.PwdFD != "":
		s.FD, err = parseFD(o.PwdFD)
		s.Passphrase, message = true, pass+" (fd)"
	default:
		return nil, "", nil
	}
	return &s, fmt.Sprintf(text, message), err
}
