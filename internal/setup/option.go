package setup

import (
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// Options are a command line of swtpm_setup, as it was given: nothing is checked
// yet.
type Options struct {
	State    string // --tpm-state: dir://PATH, file://PATH or PATH of a directory
	Program  string // --tpm: an emulator to manufacture with, and its arguments; "" for ours
	TPM2     bool
	RunAs    string
	VMID     string
	Config   string // --config; "" for the usual place
	LogFile  string
	CertDir  string // --write-ek-cert-files
	KeyDir   string // --public-key-files: ours
	Register string // --inventory: ours

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
	OwnerPass     *string // nil for the usual one
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
	PrintTrust        bool // --print-trust-bundle: ours

	at    []string // which of the options that exclude one another were given
	shell string   // --completion

	// Of a profile only.
	marked bool         // the manufacture is marked in the state directory
	create bool         // which is made if it is missing
	nv     nv.Options   // how the state is stored
	source *seal.Source // where the key comes from; nil for KeyFile and so on
}

// hooks are what options do that act at once.
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

func yes(flags ...*bool) func(_, _ string) error {
	return func(_, _ string) error {
		for _, p := range flags {
			*p = true
		}
		return nil
	}
}

// table returns all options, in the order of the usage; they fill o.
func (o *Options) table(h hooks) []cli.Option {
	return append(o.mainOptions(h), o.otherOptions(h)...)
}

func (o *Options) mainOptions(h hooks) []cli.Option {
	return []cli.Option{
		{Name: "runas", Arg: "<user>", Set: text(&o.RunAs), Help: "Run this program under the given user's account."},
		{Name: "tpm-state", Arg: "<dir>", Set: text(&o.State), Help: "Where the state of the TPM is written to; required.\ndir:// before the path of a directory, or nothing;\nfile:// before that of a file or block device."},
		{Name: "tpmstate", Arg: "<dir>", Set: text(&o.State), Help: "The same as --tpm-state."},
		{Name: "tpm", Arg: "<executable>", Set: text(&o.Program), Help: "Manufacture with this emulator, in words as\n'/usr/bin/swtpm socket', instead of in this process."},
		{Name: "tpm2", Set: yes(&o.TPM2), Help: "Set up a TPM 2.0; without it a TPM 1.2."},
		{Name: "createek", Set: yes(&o.CreateEK), Help: "Create the EK; a TPM 2.0 gets two."},
		{Name: "create-ek-cert", Set: yes(&o.EKCert), Help: "Create EK certificates; implies --createek."},
		{Name: "create-platform-cert", Set: yes(&o.PlatformCert), Help: "Create a platform certificate; implies --createek."},
		{Name: "create-spk", Set: yes(&o.CreateSPK), Help: "Create a storage primary key; requires --tpm2."},
		{Name: "ek1keyalgo", Arg: "<algorithm>", Set: text(&o.EK1), Words: algorithmNames, Help: "The algorithm of the first EK of a TPM 2.0:\nrsa2048, rsa3072, rsa4096, secp256r1, secp384r1,\nsecp521r1. Default: rsa2048."},
		{Name: "ek2keyalgo", Arg: "<algorithm>", Set: text(&o.EK2), Words: algorithmNames, Help: "That of the second one. Default: secp384r1."},
		{Name: "rsa-keysize", Arg: "<keysize>", Set: text(&o.RSAKeySize), Words: []string{"2048", "3072", "4096", "max"}, Help: "The size of an RSA EK in bits, or max.\nDefault: 2048."},
		{Name: "iakkeyalgo", Arg: "<algorithm>", Set: text(&o.IAK), Words: algorithmNames, Help: "Create an IAK with this algorithm, and its\ncertificate; requires --create-ek-cert."},
		{Name: "idevidkeyalgo", Arg: "<algorithm>", Set: text(&o.IDevID), Words: algorithmNames, Help: "Create an IDevID, likewise."},
		{Name: "allow-signing", Set: yes(&o.AllowSigning), Help: "Create an EK that signs; requires --tpm2.\nCareful, it is no EK as TCG means it!"},
		{Name: "decryption", Set: yes(&o.Decryption), Help: "With --allow-signing, the EK decrypts, too."},
		{Name: "ecc", Set: yes(&o.ECC), Help: "--create-spk makes one of ECC; requires --tpm2."},
		{Name: "take-ownership", Set: yes(&o.TakeOwnership), Help: "Take ownership of a TPM 1.2; implies --createek."},
		{Name: "ownerpass", Arg: "<password>", Set: given(&o.OwnerPass), Help: "The owner's password. Default: ooo."},
		{Name: "owner-well-known", Set: yes(&o.OwnerKnown), Help: "The owner's password is 20 zero bytes."},
		{Name: "srkpass", Arg: "<password>", Set: given(&o.SRKPass), Help: "The SRK's password. Default: sss."},
		{Name: "srk-well-known", Set: yes(&o.SRKKnown), Help: "The SRK's password is 20 zero bytes."},
		{Name: "lock-nvram", Set: yes(&o.LockNVRAM), Help: "Lock the NV indices that were written."},
		{Name: "pcr-banks", Arg: "<banks>", Set: o.addBanks, Help: "The PCR banks of a TPM 2.0 to activate, as\nsha1,sha256; - leaves all of them as they are.\nDefault: sha256."},
		{Name: "vmid", Arg: "<id>", Set: text(&o.VMID), Help: "Whose TPM it is, for its certificates."},
		{Name: "config", Arg: "<file>", Set: text(&o.Config), Help: "The configuration file.\nDefault: " + sysConfig},
		{Name: "logfile", Arg: "<file>", Set: text(&o.LogFile), Help: "Messages go to this file instead of stdout and stderr."},
		{Name: "keyfile", Arg: "<file>", Set: text(&o.KeyFile), Help: "Encrypt the state with the key in this file, 32 or 64\nhex digits."},
		{Name: "keyfile-fd", Arg: "<fd>", Set: text(&o.KeyFD), Help: "The same with a descriptor."},
		{Name: "pwdfile", Arg: "<file>", Set: text(&o.PwdFile), Help: "Encrypt the state with a key made of the passphrase\nin this file."},
		{Name: "pwdfile-fd", Arg: "<fd>", Set: text(&o.PwdFD), Help: "The same with a descriptor."},
		{Name: "cipher", Arg: "<cipher>", Set: text(&o.Cipher), Words: ciphers, Help: "aes-128-cbc or aes-256-cbc. Default: aes-128-cbc."},
		{Name: "overwrite", Set: yes(&o.Overwrite), Help: "Make a new TPM in place of one that is there.\nUntil the new one is whole the old one stays."},
		{Name: "not-overwrite", Set: yes(&o.NotOverwrite), Help: "If a TPM is there, that is fine: exit code 0."},
		{Name: "reconfigure", Set: yes(&o.Reconfigure), Help: "Change the PCR banks of the TPM that is there."},
		{Name: "write-ek-cert-files", Arg: "<directory>", Set: text(&o.CertDir), Help: "Write the certificates into this directory, too."},
	}
}

func (o *Options) otherOptions(h hooks) []cli.Option {
	profile := func(p *string) func(arg, _ string) error {
		return func(arg, _ string) error {
			*p = arg
			o.at = append(o.at, arg)
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
		{Name: "profile-name", Arg: "<name>", Set: profile(&o.ProfileName), Help: "The name of one: local:NAME, distro:NAME,\nbuiltin:NAME, or the first of them that is there."},
		{Name: "profile-file", Arg: "<file>", Set: profile(&o.ProfileFile), Help: "A file with one."},
		{Name: "profile-file-fd", Arg: "<fd>", Set: profile(&o.ProfileFD), Help: "A descriptor that one is read from."},
		{Name: "profile-remove-disabled", Arg: "<check|fips-host>", Set: text(&o.RemoveDisable), Words: []string{"check", "fips-host"}, Help: "Take out of a custom profile what OpenSSL refuses\nhere, or would on a FIPS host."},
		{Name: "create-config-files", Arg: "[overwrite][,root][,skip-if-exist]", Optional: true, Set: func(arg, _ string) error { return h.configFiles(arg) },
			Help: "Write configuration files for this user.\noverwrite: replace those that are there;\nroot: needed if the user is root;\nskip-if-exist: do nothing if one is there."},
		{Name: "print-capabilities", Set: yes(&o.PrintCapabilities), Help: "Print what this program can do, as JSON."},
		{Name: "print-profiles", Set: yes(&o.PrintProfiles), Help: "Print the algorithm profiles there are, as JSON."},
		{Name: "print-trust-bundle", Own: true, Set: yes(&o.PrintTrust), Help: "Print the certificates that those of the local CA\nare verified with, as PEM."},
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
func (o *Options) addBanks(arg, _ string) error {
	if o.PCRBanksGiven {
		arg = o.PCRBanks + "," + arg
	}
	o.PCRBanks, o.PCRBanksGiven = arg, true
	return nil
}

// imply sets what other options imply.
func (o *Options) imply() {
	if o.EKCert || o.PlatformCert || o.TakeOwnership {
		o.CreateEK = true
	}
}

// algorithmNames are the algorithms that keys may have.
var algorithmNames = []string{"rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1"}

// ciphers are those of the state.
var ciphers = []string{"aes-128-cbc", "aes-256-cbc"}

// words splits at single blanks and drops what is empty, as swtpm_setup does with
// --tpm. There are no quotes.
func words(s string) (out []string) {
	for _, w := range strings.Split(s, " ") {
		if w = strings.TrimRight(w, " \t\n\v\f\r"); w != "" {
			out = append(out, w)
		}
	}
	return out
}
