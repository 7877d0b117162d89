package setup

import (
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// options is a command line of swtpm_setup, or a profile in the same form, before it is
// checked.
type options struct {
	State    string // --tpm-state: dir://PATH, file://PATH, store://NAME or the PATH of a directory
	Program  string // --tpm: command line of another emulator; "" for this process
	TPM2     bool
	RunAs    string
	VMID     string
	Config   string // --config; "" for the default
	LogFile  string
	CertDir  string // --write-ek-cert-files
	KeyDir   string // --public-key-files, not in swtpm
	Register string // --inventory, not in swtpm

	CreateEK      bool
	EKCert        bool
	PlatformCert  bool
	EK1, EK2      string // --ek1keyalgo, --ek2keyalgo
	RSAKeySize    string
	IAK, IDevID   string
	AllowSigning  bool
	Decryption    bool
	ECC           bool
	CreateSPK     bool
	LockNVRAM     bool
	TakeOwnership bool
	OwnerPass     *string // nil for the default
	OwnerKnown    bool
	SRKPass       *string
	SRKKnown      bool
	PCRBanks      string
	PCRBanksGiven bool

	KeyFile, PwdFile string
	KeyFD, PwdFD     string
	Cipher           string

	Overwrite    bool
	NotOverwrite bool
	Reconfigure  bool

	Profile       string // JSON
	ProfileName   string
	ProfileFile   string
	ProfileFD     string
	RemoveDisable string // --profile-remove-disabled

	PrintCapabilities bool
	PrintProfiles     bool
	PrintTrust        bool // --print-trust-bundle, not in swtpm

	profileOptions []string // arguments of the options for a profile, which exclude one another
	shell          string   // --completion

	Clone cloneOptions // --clone and so on, not in swtpm

	fromProfile bool // a profile set the options

	// Set only from a profile of [manufacture].
	marked bool         // record the manufacture in the state directory
	create bool         // create a missing state directory
	nv     nv.Options   // for the backend of the state
	source *seal.Source // source of the key; nil for KeyFile and so on
	plain  bool         // a state in a cluster store needs no key
}

// hooks are the actions of options that are executed during parsing.
type hooks struct {
	help, version func() error
	configFiles   func(flags string) error
	warn          func(string)
}

func text(p *string) func(arg, _ string) error {
	return func(arg, _ string) error { *p = arg; return nil }
}

func given(p **string) func(arg, _ string) error {
	return func(arg, _ string) error { *p = &arg; return nil }
}

func enable(flags ...*bool) func(_, _ string) error {
	return func(_, _ string) error {
		for _, p := range flags {
			*p = true
		}
		return nil
	}
}

// table returns all options in the order of the usage. Parsing them fills o.
func (o *options) table(h hooks) []cli.Option {
	return slices.Concat(o.mainOptions(h), o.Clone.table(), o.otherOptions(h))
}

func (o *options) mainOptions(h hooks) []cli.Option {
	return []cli.Option{
		{Name: "runas", Arg: "<user>", Set: text(&o.RunAs), Help: "Run this program under the given user's account."},
		{Name: "tpm-state", Arg: "<dir>", Set: text(&o.State), Help: "Location of the state of the TPM; required. dir://PATH\nor PATH for a directory, file://PATH for a file or\nblock device, store://NAME for a cluster store."},
		{Name: "tpmstate", Arg: "<dir>", Set: text(&o.State), Help: "The same as --tpm-state."},
		{Name: "tpm", Arg: "<executable>", Set: text(&o.Program), Help: "Create the TPM with another emulator, for example\n'/usr/bin/swtpm socket', instead of in this process."},
		{Name: "tpm2", Set: enable(&o.TPM2), Help: "Create a TPM 2.0. Default: a TPM 1.2."},
		{Name: "createek", Set: enable(&o.CreateEK), Help: "Create the EK; a TPM 2.0 gets two."},
		{Name: "create-ek-cert", Set: enable(&o.EKCert), Help: "Create EK certificates; implies --createek."},
		{Name: "create-platform-cert", Set: enable(&o.PlatformCert), Help: "Create a platform certificate; implies --createek."},
		{Name: "create-spk", Set: enable(&o.CreateSPK), Help: "Create a storage primary key; requires --tpm2."},
		{Name: "ek1keyalgo", Arg: "<algorithm>", Set: text(&o.EK1), Words: algorithmNames, Help: "The algorithm of the first EK of a TPM 2.0:\nrsa2048, rsa3072, rsa4096, secp256r1, secp384r1,\nsecp521r1. Default: rsa2048."},
		{Name: "ek2keyalgo", Arg: "<algorithm>", Set: text(&o.EK2), Words: algorithmNames, Help: "The algorithm of the second EK. Default: secp384r1."},
		{Name: "rsa-keysize", Arg: "<keysize>", Set: text(&o.RSAKeySize), Words: []string{"2048", "3072", "4096", "max"}, Help: "The size of an RSA EK in bits, or max.\nDefault: 2048."},
		{Name: "iakkeyalgo", Arg: "<algorithm>", Set: text(&o.IAK), Words: algorithmNames, Help: "Create an IAK with this algorithm, and its\ncertificate; requires --create-ek-cert."},
		{Name: "idevidkeyalgo", Arg: "<algorithm>", Set: text(&o.IDevID), Words: algorithmNames, Help: "Create an IDevID with this algorithm, and its\ncertificate; requires --create-ek-cert."},
		{Name: "allow-signing", Set: enable(&o.AllowSigning), Help: "Create an EK that signs; requires --tpm2. Such a key\ndoes not conform to the specifications of the TCG."},
		{Name: "decryption", Set: enable(&o.Decryption), Help: "With --allow-signing, create an EK that also decrypts."},
		{Name: "ecc", Set: enable(&o.ECC), Help: "Create an ECC key with --create-spk; requires --tpm2."},
		{Name: "take-ownership", Set: enable(&o.TakeOwnership), Help: "Take ownership of a TPM 1.2; implies --createek."},
		{Name: "ownerpass", Arg: "<password>", Set: given(&o.OwnerPass), Help: "The owner's password. Default: ooo."},
		{Name: "owner-well-known", Set: enable(&o.OwnerKnown), Help: "Use 20 zero bytes as the owner's password."},
		{Name: "srkpass", Arg: "<password>", Set: given(&o.SRKPass), Help: "The SRK's password. Default: sss."},
		{Name: "srk-well-known", Set: enable(&o.SRKKnown), Help: "Use 20 zero bytes as the SRK's password."},
		{Name: "lock-nvram", Set: enable(&o.LockNVRAM), Help: "Lock the NV indices that were written."},
		{Name: "pcr-banks", Arg: "<banks>", Set: o.addBanks, Help: "The PCR banks of a TPM 2.0 to activate, such as\nsha1,sha256; - leaves all of them as they are.\nDefault: sha256."},
		{Name: "vmid", Arg: "<id>", Set: text(&o.VMID), Help: "Name of the virtual machine, for the certificates."},
		{Name: "config", Arg: "<file>", Set: text(&o.Config), Help: "The configuration file.\nDefault: " + sysConfig},
		{Name: "logfile", Arg: "<file>", Set: text(&o.LogFile), Help: "Write messages to this file instead of stdout and\nstderr."},
		{Name: "keyfile", Arg: "<file>", Set: text(&o.KeyFile), Help: "Encrypt the state with the key in this file, 32 or 64\nhex digits."},
		{Name: "keyfile-fd", Arg: "<fd>", Set: text(&o.KeyFD), Help: "The same, from a file descriptor."},
		{Name: "pwdfile", Arg: "<file>", Set: text(&o.PwdFile), Help: "Encrypt the state with a key derived from the\npassphrase in this file."},
		{Name: "pwdfile-fd", Arg: "<fd>", Set: text(&o.PwdFD), Help: "The same, from a file descriptor."},
		{Name: "cipher", Arg: "<cipher>", Set: text(&o.Cipher), Words: ciphers, Help: "aes-128-cbc or aes-256-cbc. Default: aes-128-cbc."},
		{Name: "overwrite", Set: enable(&o.Overwrite), Help: "Replace an existing TPM. It stays until the new one\nis complete."},
		{Name: "not-overwrite", Set: enable(&o.NotOverwrite), Help: "If a TPM exists, do nothing and exit with code 0."},
		{Name: "reconfigure", Set: enable(&o.Reconfigure), Help: "Change the PCR banks of an existing TPM."},
		{Name: "write-ek-cert-files", Arg: "<directory>", Set: text(&o.CertDir), Help: "Also write the certificates into this directory."},
	}
}

func (o *options) otherOptions(h hooks) []cli.Option {
	profile := func(p *string) func(arg, _ string) error {
		return func(arg, _ string) error {
			*p = arg
			o.profileOptions = append(o.profileOptions, arg)
			return nil
		}
	}
	deprecated := func(name string) func(_, _ string) error {
		return func(_, _ string) error {
			h.warn("Warning: --" + name + " is deprecated and has no effect.")
			return nil
		}
	}
	ignore := func(_, _ string) error { return nil }
	return []cli.Option{
		{Name: "profile", Arg: "<json>", Set: profile(&o.Profile), Help: "The algorithm profile of a new TPM 2.0."},
		{Name: "profile-name", Arg: "<name>", Set: profile(&o.ProfileName), Help: "The same, by name: local:NAME, distro:NAME,\nbuiltin:NAME, or NAME for the first of them."},
		{Name: "profile-file", Arg: "<file>", Set: profile(&o.ProfileFile), Help: "The same, from a file."},
		{Name: "profile-file-fd", Arg: "<fd>", Set: profile(&o.ProfileFD), Help: "The same, from a file descriptor."},
		{Name: "profile-remove-disabled", Arg: "<check|fips-host>", Set: text(&o.RemoveDisable), Words: []string{"check", "fips-host"}, Help: "Remove algorithms from a custom profile that OpenSSL\nrejects here, or would reject on a FIPS host."},
		{Name: "create-config-files", Arg: "[overwrite][,root][,skip-if-exist]", Optional: true, Set: func(arg, _ string) error { return h.configFiles(arg) },
			Help: "Write configuration files for this user.\noverwrite: replace existing files;\nroot: required for the user root;\nskip-if-exist: do nothing if a file exists."},
		{Name: "print-capabilities", Set: enable(&o.PrintCapabilities), Help: "Print the capabilities of this program as JSON."},
		{Name: "print-profiles", Set: enable(&o.PrintProfiles), Help: "Print the available algorithm profiles as JSON."},
		{Name: "print-trust-bundle", Own: true, Set: enable(&o.PrintTrust), Help: "Print the certificates of the local CA as PEM, for\nverifiers of TPM certificates."},
		{Name: "public-key-files", Arg: "<directory>", Own: true, Set: text(&o.KeyDir), Help: "Write the public keys into this directory, as PEM."},
		{Name: "inventory", Arg: "<file>", Own: true, Set: text(&o.Register), Help: "Append a line of JSON for the new TPM to this file:\nVM, UUID, EKs and their certificates. - is stdout."},
		{Name: "no-iak", Hidden: true, Set: ignore},
		{Name: "display", Hidden: true, Set: ignore},
		{Name: "swtpm_ioctl", Arg: "<executable>", Set: deprecated("swtpm_ioctl"), Hidden: true},
		{Name: "tcsd-system-ps-file", Arg: "<file>", Set: deprecated("tcsd-system-ps-file"), Hidden: true},
		{Name: "completion", Arg: "<shell>", Own: true, Words: cli.CompletionOption(&o.shell).Words, Set: cli.CompletionOption(&o.shell).Set,
			Help: "Print a completion script for this command line:\nbash, zsh or fish."},
		{Name: "version", Set: func(_, _ string) error { return h.version() }, Help: "Print the version."},
		{Name: "help", Short: "h?", Set: func(_, _ string) error { return h.help() }, Help: "Print this text."},
	}
}

// addBanks joins the values of an option that may be repeated.
func (o *options) addBanks(arg, _ string) error {
	if o.PCRBanksGiven {
		arg = o.PCRBanks + "," + arg
	}
	o.PCRBanks, o.PCRBanksGiven = arg, true
	return nil
}

// imply sets the options that other options imply.
func (o *options) imply() {
	if o.EKCert || o.PlatformCert || o.TakeOwnership {
		o.CreateEK = true
	}
}

// algorithmNames are the algorithms of keys, for completion.
var algorithmNames = []string{"rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1"}

// ciphers are the ciphers of the state, for completion.
var ciphers = []string{"aes-128-cbc", "aes-256-cbc"}

// words splits s at single blanks and drops empty words, as swtpm_setup does with
// --tpm. Quotes have no meaning.
func words(s string) (out []string) {
	for _, w := range strings.Split(s, " ") {
		if w = strings.TrimRight(w, " \t\n\v\f\r"); w != "" {
			out = append(out, w)
		}
	}
	return out
}
