package ca

import (
	"slices"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// keyOptions are the options for the public key to certify, which has one of four forms.
type keyOptions struct {
	kind string // "RSA", "EC", …; "" before the first option

	file      string // --pubkey
	modulus   []byte // --modulus; nil if not given
	exponent  uint32
	x, y      []byte // nil if not given
	curve     string
	public    []byte // --public; nil if not given
	algorithm string // --keyalgo

	parsed *cert.PublicKey // set by SetKey; nil for the options above
}

// defaultCurve is the curve of a key without --ecc-curveid.
const defaultCurve = "secp256r1"

// Forms of a key, as in messages.
const (
	kindRSA    = "RSA"
	kindEC     = "EC"
	kindFile   = "PEM"
	kindPublic = "ML-KEM/ML-DSA"
)

func (k *keyOptions) table() []cli.Option {
	return []cli.Option{
		{Name: "pubkey", Arg: "<file>", Help: "PEM file with the public key",
			Set: k.option(kindFile, func(arg string) error { k.file = arg; return nil })},
		{Name: "modulus", Arg: "<hex string>", Help: "modulus of an RSA key", Set: k.option(kindRSA, hexInto(&k.modulus))},
		{Name: "exponent", Arg: "<exponent>", Help: "exponent of an RSA key; default is 0x10001",
			Set: k.option(kindRSA, func(arg string) (err error) { k.exponent, err = exponent(arg); return err })},
		{Name: "ecc-x", Arg: "<hex string>", Help: "x coordinate of an ECC key", Set: k.option(kindEC, hexInto(&k.x))},
		{Name: "ecc-y", Arg: "<hex string>", Help: "y coordinate of an ECC key", Set: k.option(kindEC, hexInto(&k.y))},
		{Name: "ecc-curveid", Arg: "<id>", Words: cert.CurveNames(), Help: "curve of an ECC key: secp256r1, secp384r1 or\nsecp521r1; default is secp256r1",
			Set: k.option(kindEC, func(arg string) error {
				if _, err := cert.CurveByName(arg); err != nil {
					return cli.Complain("Unsupported ECC curve id: %s", arg)
				}
				k.curve = arg
				return nil
			})},
		{Name: "public", Arg: "<hex string>", Help: "public key of an algorithm of --keyalgo", Set: k.option(kindPublic, hexInto(&k.public))},
		{Name: "keyalgo", Arg: "<algorithm>", Words: cert.PQNames(), Help: "algorithm of the key of --public: ml-kem-512,\nml-kem-768, ml-kem-1024, ml-dsa-44, ml-dsa-65 or\nml-dsa-87",
			Set: k.option(kindPublic, func(arg string) error {
				if !slices.Contains(cert.PQNames(), arg) {
					return cli.Complain("Unsupported key algorithm: %s", arg)
				}
				k.algorithm = arg
				return nil
			})},
	}
}

// option returns the Set of an option for keys of this kind.
func (k *keyOptions) option(kind string, set func(arg string) error) setter {
	return func(arg, _ string) error {
		if k.kind != "" && k.kind != kind {
			return cli.Complain("Already found options for '%s' key; cannot switch to '%s'.", k.kind, kind)
		}
		k.kind = kind
		return set(arg)
	}
}

func hexInto(b *[]byte) func(arg string) error {
	return func(arg string) (err error) { *b, err = parseHex(arg); return err }
}

// check returns an error if a part of the key is missing.
func (k *keyOptions) check() error {
	switch {
	case k.parsed != nil:
		return nil
	case k.kind == "", k.kind == kindRSA && len(k.modulus) == 0, k.kind == kindFile && k.file == "":
		return cli.Complain("No parameters for a public key were given.")
	case k.kind == kindEC && (len(k.x) == 0 || len(k.y) == 0):
		return cli.Complain("ECC x and y parameters must both be given.")
	case k.kind == kindPublic && (len(k.public) == 0 || k.algorithm == ""):
		return cli.Complain("--public and --keyalgo must both be provided.")
	}
	return nil
}

// read returns the key.
func (k *keyOptions) read() (key cert.PublicKey, err error) {
	if k.parsed != nil {
		return *k.parsed, nil
	}
	switch k.kind {
	case kindFile:
		return readPublicKey(k.file)
	case kindRSA:
		key, err = cert.RSA(k.modulus, k.exponent)
	case kindEC:
		var c cert.Curve
		if c, err = cert.CurveByName(k.curve); err == nil {
			key, err = cert.EC(c, k.x, k.y)
		}
	case kindPublic:
		key, err = cert.PQ(k.algorithm, k.public)
	}
	if err != nil {
		return key, cli.Complain("Could not make the %s public key: %s.", k.kind, err)
	}
	return key, nil
}

// maxPublicKey is the size limit of a file with a public key in bytes.
const maxPublicKey = 1 << 20

// readPublicKey returns the key in the PEM file at path.
func readPublicKey(path string) (cert.PublicKey, error) {
	text, err := safefile.ReadInput(path, maxPublicKey)
	if err != nil {
		return cert.PublicKey{}, cli.Complain("Could not open file for EK public key: %s: %s", path, cli.Strerror(err))
	}
	key, err := cert.ParsePEM(text)
	if err != nil {
		return key, cli.Complain("Could not read EK public key from %s: %s.", path, err)
	}
	return key, nil
}
