package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Manufacture is what swtpm-setup creates in a new TPM: [manufacture], and options of
// swtpm-setup. swtpm itself ignores it.
type Manufacture struct {
	Given bool // the profile has [manufacture]

	EK           string // algorithms of the endorsement keys, with commas between; "": see EKs
	EKCert       bool
	PlatformCert bool
	AllowSigning bool   // 2.0: the EK may sign
	Decryption   bool   // the EK may decrypt also with AllowSigning
	IAK, IDevID  string // 2.0: algorithms; "" for none
	SPK          string // 2.0: "rsa" or "ecc"; "" for none
	PCRBanks     string // 2.0: the active banks, with commas between; "-": the defaults of libtpms, "": from the configuration file

	TakeOwnership  bool   // 1.2
	OwnerPass      string // 1.2: "" for the default of the reference
	OwnerWellKnown bool
	SRKPass        string // 1.2: "" for the default of the reference
	SRKWellKnown   bool

	LockNVRAM bool
	VMID      string // the subject of the certificates
	Config    string // path of swtpm_setup.conf; "" for the first one in the usual directories
	CertFiles string // directory that gets certificates as files too; "" for none
}

// ekAlgorithms are the algorithms of keys, as in file names.
var ekAlgorithms = []string{"rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1"}

var bankNames = []string{"sha1", "sha256", "sha384", "sha512", "sm3-256", "sha3-256", "sha3-384", "sha3-512"}

// EKs returns the algorithms of the endorsement keys, by default the same as the
// reference.
func (c *Config) EKs() []string {
	switch {
	case c.Manufacture.EK != "":
		return strings.Split(c.Manufacture.EK, ",")
	case c.TPM == tpm.V12:
		return []string{"rsa2048"}
	}
	return []string{"rsa2048", "secp384r1"}
}

func (c *Config) manufactureKeys() keys {
	m := &c.Manufacture
	v12, v20 := func() bool { return c.TPM == tpm.V12 }, func() bool { return c.TPM == tpm.V20 }
	only12, only20 := `with tpm = "1.2"`, `with tpm = "2.0"`
	hashes := list{p: &m.PCRBanks, of: bankNames, empty: true, unset: []string{"sha256"}}.value()
	return keys{
		{name: "ek", in: profile, value: list{p: &m.EK, of: ekAlgorithms, unset: c.EKs()}.value()},
		{name: "ek-cert", in: profile, value: truth(&m.EKCert)},
		{name: "platform-cert", in: profile, value: truth(&m.PlatformCert)},
		{name: "allow-signing", in: profile, value: truth(&m.AllowSigning), when: v20, only: only20},
		{name: "decryption", in: profile, value: truth(&m.Decryption), when: v20, only: only20},
		{name: "iak", in: profile, value: choice(&m.IAK, "", words(ekAlgorithms...)), when: v20, only: only20},
		{name: "idevid", in: profile, value: choice(&m.IDevID, "", words(ekAlgorithms...)), when: v20, only: only20},
		{name: "spk", in: profile, value: choice(&m.SPK, "", words("rsa", "ecc")), when: v20, only: only20},
		{name: "pcr-banks", in: profile, value: hashes, when: v20, only: only20},
		{name: "take-ownership", in: profile, value: truth(&m.TakeOwnership), when: v12, only: only12},
		{name: "ownerpass", in: profile, value: text(&m.OwnerPass), when: v12, only: only12},
		{name: "owner-well-known", in: profile, value: truth(&m.OwnerWellKnown), when: v12, only: only12},
		{name: "srkpass", in: profile, value: text(&m.SRKPass), when: v12, only: only12},
		{name: "srk-well-known", in: profile, value: truth(&m.SRKWellKnown), when: v12, only: only12},
		{name: "lock-nvram", in: profile, value: truth(&m.LockNVRAM)},
		{name: "vmid", in: profile, value: text(&m.VMID)},
		{name: "config", in: profile, value: file(&m.Config)},
		{name: "write-ek-cert-files", in: profile, value: directory(&m.CertFiles)},
	}
}

// manufactureFaults returns the errors in [manufacture].
func (c *Config) manufactureFaults() []fault {
	m, out := c.Manufacture, []fault(nil)
	if !m.Given {
		return nil
	}
	add := func(key, text string) { out = append(out, fault{"manufacture", key, text}) }
	eks := c.EKs()
	switch {
	case c.TPM == tpm.V12 && !slices.Equal(eks, []string{"rsa2048"}):
		add("ek", `a TPM 1.2 has one endorsement key; write ek = ["rsa2048"]`)
	case len(eks) > 2:
		add("ek", fmt.Sprintf("%d endorsement keys; write one or two", len(eks)))
	case len(eks) == 2 && eks[0] == eks[1]:
		add("ek", fmt.Sprintf("duplicate %q; write two algorithms", eks[0]))
	}
	if c.TPM == tpm.V12 && m.PlatformCert && !m.EKCert {
		add("platform-cert", "valid for a TPM 1.2 only with ek-cert = true")
	}
	if m.Decryption && !m.AllowSigning {
		add("decryption", "valid only with allow-signing = true")
	}
	for _, k := range []struct{ name, algorithm string }{{"iak", m.IAK}, {"idevid", m.IDevID}} {
		if k.algorithm != "" && !m.EKCert {
			add(k.name, "valid only with ek-cert = true, because its certificate refers to the EK certificate")
		}
	}
	for _, k := range []struct {
		name, pass string
		known      bool
	}{{"owner", m.OwnerPass, m.OwnerWellKnown}, {"srk", m.SRKPass, m.SRKWellKnown}} {
		if k.pass != "" && k.known {
			add(k.name+"pass", "conflicts with "+k.name+"-well-known; write only one of them")
		}
		if (k.pass != "" || k.known) && !m.TakeOwnership {
			key := k.name + "pass"
			if k.known {
				key = k.name + "-well-known"
			}
			add(key, "valid only with take-ownership = true")
		}
	}
	if c.Sandbox.Chroot != "" {
		out = append(out, fault{"sandbox", "chroot", "conflicts with [manufacture], because swtpm-setup creates a TPM outside of it"})
	}
	return out
}

// list is an array of words. The field has commas between them, and "-" for none.
type list struct {
	p     *string
	of    []string
	empty bool     // may have no words
	unset []string // what "" in the field stands for
}

func (l list) value() value {
	quoted := make([]string, len(l.of))
	for i, s := range l.of {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return value{
		parse:    anyForm(l.set),
		fromTOML: l.fromTOML,
		toTOML:   l.toTOML,
		want:     "an array of " + strings.Join(quoted, ", "),
		mayEmpty: l.empty,
		exact:    true,
	}
}

func (l list) set(s string) error {
	if s == "" {
		*l.p = "-"
		return nil
	}
	for _, word := range strings.Split(s, ",") {
		if !slices.Contains(l.of, word) {
			return fmt.Errorf("unknown value %q", word)
		}
	}
	*l.p = s
	return nil
}

func (l list) fromTOML(v any) (string, bool) {
	array, ok := v.([]any)
	all := make([]string, len(array))
	for i, x := range array {
		s, isText := x.(string)
		ok = ok && isText && s != "" && !strings.Contains(s, ",")
		all[i] = s
	}
	return strings.Join(all, ","), ok && (l.empty || len(all) > 0)
}

func (l list) toTOML() (any, bool) {
	switch *l.p {
	case "":
		return l.unset, false
	case "-":
		return []string{}, true
	}
	return strings.Split(*l.p, ","), true
}
