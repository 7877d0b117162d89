package cmdlocalca

import (
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// options is a parsed command line.
type options struct {
	kind string // --type
	key  string // --ek, --key
	dir  string
	vmid string
	opts string // --optsfile; "": where package conf finds it
	conf string // --configfile; the same
	log  string // --logfile; "": stdout and stderr

	spec    []string // --tpm-spec-* with their arguments, in the order given
	product []string // --tpm-manufacturer, -model, -version, the same
	serial  string   // --tpm-serial-num

	tpm2, signing, decryption bool

	revocation revocation

	help  bool
	shell string // --completion
}

// table returns all options there are, in the order of the usage; they fill o.
func (o *options) table() []cli.Option {
	all := []cli.Option{
		{Name: "type", Arg: "<type>", Words: []string{"ek", "platform", "iak", "idevid"}, Set: text(&o.kind),
			Help: "what to certify: ek, platform, iak or idevid"},
		{Name: "ek", Arg: "<key>", Long: true, Set: text(&o.key),
			Help: "the key: the modulus of an RSA key in hex, or\nx=HEX,y=HEX,id=CURVE of an elliptic curve"},
		{Name: "key", Arg: "<key>", Set: text(&o.key), Help: "the same"},
		{Name: "dir", Arg: "<dir>", Set: text(&o.dir), Help: "directory for the certificate; default is ."},
		{Name: "vmid", Arg: "<name>", Set: text(&o.vmid), Help: "name of the virtual machine, for the subject"},
		{Name: "optsfile", Arg: "<file>", Set: text(&o.opts), Help: "file with further options of swtpm_cert"},
		{Name: "configfile", Arg: "<file>", Set: text(&o.conf), Help: "file that says where the CA is"},
		{Name: "logfile", Arg: "<file>", Set: text(&o.log), Help: "file for messages"},
		{Name: "tpm-spec-family", Arg: "<family>", Set: pass(&o.spec, "--tpm-spec-family"), Help: "family of the TPM's specification, as 2.0"},
		{Name: "tpm-spec-revision", Arg: "<rev>", Set: pass(&o.spec, "--tpm-spec-revision"), Help: "its revision, as 183"},
		{Name: "tpm-spec-level", Arg: "<level>", Set: pass(&o.spec, "--tpm-spec-level"), Help: "its level, as 0"},
		{Name: "tpm-manufacturer", Arg: "<name>", Set: pass(&o.product, "--tpm-manufacturer"), Help: "the TPM's manufacturer, as id:00001014"},
		{Name: "tpm-model", Arg: "<model>", Set: pass(&o.product, "--tpm-model"), Help: "the TPM's model, as swtpm"},
		{Name: "tpm-version", Arg: "<version>", Set: pass(&o.product, "--tpm-version"), Help: "the TPM's firmware version, as id:20240125"},
		{Name: "tpm-serial-num", Arg: "<number>", Set: text(&o.serial), Help: "the TPM's serial number; for iak and idevid"},
		{Name: "tpm2", Set: flag(&o.tpm2), Help: "the TPM is a TPM 2.0"},
		{Name: "allow-signing", Set: flag(&o.signing), Help: "the EK may sign"},
		{Name: "decryption", Set: flag(&o.decryption), Help: "an EK that may sign may decrypt, too"},
	}
	all = append(all, o.revocation.table()...)
	return append(all,
		cli.CompletionOption(&o.shell),
		cli.Option{Name: "help", Short: "h?", Help: "display this help screen and exit",
			Set: func(_, _ string) error { o.help = true; return cli.ErrStop }})
}

func text(to *string) func(arg, file string) error {
	return func(arg, _ string) error { *to = arg; return nil }
}

func flag(to *bool) func(arg, file string) error {
	return func(_, _ string) error { *to = true; return nil }
}

// pass keeps an option for swtpm_cert.
func pass(to *[]string, name string) func(arg, file string) error {
	return func(arg, _ string) error { *to = append(*to, name, arg); return nil }
}

// label is what messages call the certificate.
func (o *options) label() string {
	if o.kind == "ek" {
		return "EK"
	}
	return o.kind
}

// certArgs returns the command line of swtpm_cert but for the signing key, the
// issuer's certificate and the file to write. opts are what the options file has;
// what comes later counts.
func (o *options) certArgs(opts []string, serial string) []string {
	args := append([]string{"--subject", o.subject()}, opts...)
	if o.tpm2 {
		if o.serial != "" {
			args = append(args, "--tpm-serial-num", o.serial)
		}
		args = append(args, "--tpm2")
	} else {
		args = append(args, "--add-header")
	}
	if o.kind == "ek" {
		if o.signing {
			args = append(args, "--allow-signing")
		}
		if o.decryption {
			args = append(args, "--decryption")
		}
		args = append(args, o.spec...)
	}
	args = append(args, o.product...)
	if o.kind != "ek" {
		args = append(args, "--type", o.kind)
	}
	args = append(args, keyArgs(o.key)...)
	return append(args, "--days", "-1", "--serial", serial)
}

// subject returns the subject of the certificate.
//
// Compat: what would end a name becomes "_"; a plus with a backslash before it
// stays, with the backslash.
func (o *options) subject() string {
	id := []byte(o.vmid)
	for i, c := range id {
		if c == ',' || c == '+' && (i == 0 || id[i-1] != '\\') {
			id[i] = '_'
		}
	}
	if o.vmid == "" {
		id = []byte("unknown")
	}
	if o.kind == "iak" || o.kind == "idevid" {
		return "serialNumber=" + string(id)
	}
	return "CN=" + string(id)
}

// keyArgs returns the options of swtpm_cert for a key: x=HEX,y=HEX with ,id=CURVE
// behind it or not, anywhere in s, or else the modulus of an RSA key.
func keyArgs(s string) []string {
	for i := range s {
		rest, ok := strings.CutPrefix(s[i:], "x=")
		if !ok {
			continue
		}
		x, rest := hexPrefix(rest)
		rest, ok = strings.CutPrefix(rest, ",y=")
		y, rest := hexPrefix(rest)
		if !ok || x == "" || y == "" {
			continue
		}
		args := []string{"--ecc-x", x, "--ecc-y", y}
		if id, ok := strings.CutPrefix(rest, ",id="); ok {
			id, _, _ = strings.Cut(id, ",")
			args = append(args, "--ecc-curveid", id)
		}
		return args
	}
	return []string{"--modulus", s}
}

// hexPrefix splits s behind the hex digits that it begins with.
func hexPrefix(s string) (digits, rest string) {
	rest = strings.TrimLeft(s, "0123456789abcdefABCDEF")
	return s[:len(s)-len(rest)], rest
}

// words splits the text of an options file at blanks and ends of lines.
//
// Compat: quotes and "#" mean nothing.
func words(text string) (all []string) {
	for line := range strings.Lines(text) {
		for word := range strings.SplitSeq(line, " ") {
			if word = strings.TrimRight(word, " \t\r\n\v\f"); word != "" {
				all = append(all, word)
			}
		}
	}
	return all
}
