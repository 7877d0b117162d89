package main

import (
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// options is a parsed command line.
type options struct {
	kind string // --type
	key  string // --ek, --key
	dir  string
	vmid string
	opts string // --optsfile; "" for the default
	conf string // --configfile; "" for the default
	log  string // --logfile; "" for stdout and stderr

	spec    []string // --tpm-spec-* with their arguments, in the order given
	product []string // --tpm-manufacturer, -model, -version, likewise
	serial  string   // --tpm-serial-num

	tpm2, signing, decryption bool

	revocation revocation

	help  bool
	shell string // --completion
}

// table returns all options in the order of the usage. Parsing them fills o.
func (o *options) table() []cli.Option {
	all := []cli.Option{
		{Name: "type", Arg: "<type>", Words: []string{"ek", "platform", "iak", "idevid"}, Set: text(&o.kind),
			Help: "type of the certificate: ek, platform, iak or idevid"},
		{Name: "ek", Arg: "<key>", Long: true, Set: text(&o.key),
			Help: "the key: the modulus of an RSA key in hex, or\nx=HEX,y=HEX,id=CURVE of an elliptic curve"},
		{Name: "key", Arg: "<key>", Set: text(&o.key), Help: "the same"},
		{Name: "dir", Arg: "<dir>", Set: text(&o.dir), Help: "directory for the certificate; default is ."},
		{Name: "vmid", Arg: "<name>", Set: text(&o.vmid), Help: "name of the virtual machine, for the subject"},
		{Name: "optsfile", Arg: "<file>", Set: text(&o.opts), Help: "file with more options of swtpm_cert"},
		{Name: "configfile", Arg: "<file>", Set: text(&o.conf), Help: "configuration file of the CA"},
		{Name: "logfile", Arg: "<file>", Set: text(&o.log), Help: "file for messages"},
		{Name: "tpm-spec-family", Arg: "<family>", Set: pass(&o.spec, "--tpm-spec-family"), Help: "family of the TPM's specification, such as 2.0"},
		{Name: "tpm-spec-revision", Arg: "<rev>", Set: pass(&o.spec, "--tpm-spec-revision"), Help: "revision of that specification, such as 183"},
		{Name: "tpm-spec-level", Arg: "<level>", Set: pass(&o.spec, "--tpm-spec-level"), Help: "level of that specification, such as 0"},
		{Name: "tpm-manufacturer", Arg: "<name>", Set: pass(&o.product, "--tpm-manufacturer"), Help: "manufacturer of the TPM, such as id:00001014"},
		{Name: "tpm-model", Arg: "<model>", Set: pass(&o.product, "--tpm-model"), Help: "model of the TPM, such as swtpm"},
		{Name: "tpm-version", Arg: "<version>", Set: pass(&o.product, "--tpm-version"), Help: "firmware version of the TPM, such as id:20240125"},
		{Name: "tpm-serial-num", Arg: "<number>", Set: text(&o.serial), Help: "serial number of the TPM; for iak and idevid"},
		{Name: "tpm2", Set: flag(&o.tpm2), Help: "create a certificate of a TPM 2.0"},
		{Name: "allow-signing", Set: flag(&o.signing), Help: "the EK may sign"},
		{Name: "decryption", Set: flag(&o.decryption), Help: "an EK that signs also decrypts"},
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

// pass appends the option to a command line of swtpm_cert.
func pass(to *[]string, name string) func(arg, file string) error {
	return func(arg, _ string) error { *to = append(*to, name, arg); return nil }
}

// label returns the name of the certificate in messages.
func (o *options) label() string {
	if o.kind == "ek" {
		return "EK"
	}
	return o.kind
}

// request returns the request for a certificate of this type.
func (o *options) request(typ cert.Type) ca.Request {
	r := ca.Request{
		Type: typ, TPMSerial: o.serial, Signing: o.signing, Decryption: o.decryption, TPM2: o.tpm2, VMID: o.vmid,
	}
	if typ == cert.EK {
		r.Args = append(r.Args, o.spec...)
	}
	r.Args = append(append(r.Args, o.product...), keyArgs(o.key)...)
	return r
}

// keyArgs returns the options of swtpm_cert for a key: x=HEX,y=HEX, optionally followed
// by ,id=CURVE, anywhere in s; otherwise s is the modulus of an RSA key.
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

// hexPrefix splits s after the hex digits at its beginning.
func hexPrefix(s string) (digits, rest string) {
	rest = strings.TrimLeft(s, "0123456789abcdefABCDEF")
	return s[:len(s)-len(rest)], rest
}
