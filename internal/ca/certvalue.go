package ca

import (
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// setter is the Set of a cli.Option.
type setter = func(arg, file string) error

func text(s *string) setter { return func(arg, _ string) error { *s = arg; return nil } }

func flag(b *bool) setter { return func(_, _ string) error { *b = true; return nil } }

// last is the same as flag, for an option that ends the parsing.
func last(b *bool) setter { return func(_, _ string) error { *b = true; return cli.ErrStop } }

func literal(b *[]byte) setter { return func(arg, _ string) error { *b = []byte(arg); return nil } }

func certType(t *cert.Type) setter {
	return func(arg, _ string) (err error) {
		if *t, err = cert.ParseType(arg); err != nil {
			return cli.Complain("Unknown certificate type '%s'.", arg)
		}
		return nil
	}
}

// parseNumber parses a number of 32 bits in the syntax of C, where 010 is octal.
func parseNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 0, 32)
	if strings.ContainsAny(s, "_oObB") && !strings.HasPrefix(strings.ToLower(s), "0x") {
		err = strconv.ErrSyntax // valid in Go, but not in C
	}
	return uint32(n), err
}

func number(name string, n *uint32, given *bool) setter {
	return func(arg, _ string) (err error) {
		if *n, err = parseNumber(arg); err != nil {
			return cli.Complain("--%s must pass a positive number.", name)
		}
		*given = true
		return nil
	}
}

// days parses a number of days, or cert.Forever.
func days(n *int) setter {
	return func(arg, _ string) error {
		d, err := strconv.ParseInt(arg, 10, 32)
		if err != nil || d < cert.Forever {
			return cli.Complain("Days value of '%s' is outside valid range.", arg)
		}
		*n = int(d)
		return nil
	}
}

// serial parses a decimal number of at most 20 bytes.
//
// Compat: C-269: swtpm_cert ignores its sign.
func serial(n **big.Int) setter {
	return func(arg, _ string) error {
		digits := strings.TrimLeft(arg, "-+")
		if len(arg)-len(digits) > 1 || digits == "" || strings.Trim(digits, "0123456789") != "" {
			return cli.Complain("Serial number is invalid.")
		}
		// 20 bytes have 49 digits; converting is quadratic in their number.
		v := new(big.Int)
		if digits = strings.TrimLeft(digits, "0"); digits != "" && len(digits) <= 49 {
			v.SetString(digits, 10)
		}
		if len(digits) > 49 || v.Cmp(cert.MaxSerial) > 0 {
			return cli.Complain("Serial number is too large.")
		}
		*n = v
		return nil
	}
}

// location adds a URL to a list.
func location(name string, urls *[]string) setter {
	return func(arg, _ string) error {
		u, err := cert.ParseURL(arg)
		if err != nil {
			return cli.Complain("--%s: %v.", name, err)
		}
		*urls = append(*urls, u)
		return nil
	}
}

// maxHex is the maximum number of hex digits in an option.
const maxHex = 10240

// parseHex parses an even number of hex digits.
func parseHex(s string) ([]byte, error) {
	switch {
	case len(s)%2 != 0:
		return nil, cli.Complain("Got an odd number of hex digits (%d).", len(s))
	case len(s) > maxHex:
		return nil, cli.Complain("Got %d hex digits, %d are the most.", len(s), maxHex)
	}
	b, err := hex.DecodeString(s)
	if c, ok := errors.AsType[hex.InvalidByteError](err); ok {
		return nil, cli.Complain("Illegal hex character '%s'.", []byte{byte(c)})
	}
	return b, err
}

// maxPassword is the maximum number of bytes that are read as a password.
const maxPassword = 255

// password parses a password in one of the forms
//
//	pass:PASSWORD  fd:NUMBER  file:PATH  env:VARIABLE  PASSWORD
//
// A newline at the end is a part of it.
func password(b *[]byte, env func(string) (string, bool)) setter {
	return func(s, _ string) (err error) {
		scheme, rest, _ := strings.Cut(s, ":")
		switch scheme {
		case "pass":
			*b = []byte(rest)
		case "env":
			v, ok := env(rest)
			if !ok {
				return cli.Complain("Could not get password from environment variable %s", rest)
			}
			*b = []byte(v)
		case "file":
			f, _, err := safefile.OpenInput(rest)
			if err != nil {
				return cli.Complain("Could not open password file %s for reading: %s", rest, cli.Strerror(err))
			}
			defer f.Close()
			*b, err = readPassword(f)
			return err
		case "fd":
			fd, err := strconv.ParseUint(rest, 10, 31)
			if err != nil {
				return cli.Complain("Bad file descriptor for password.")
			}
			f := os.NewFile(uintptr(fd), "descriptor "+rest)
			defer f.Close()
			*b, err = readPassword(f)
			return err
		default:
			*b = []byte(s)
		}
		return nil
	}
}

// readPassword reads at most maxPassword bytes.
func readPassword(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPassword))
	if err != nil {
		return nil, cli.Complain("Could not read password: %s", cli.Strerror(err))
	}
	return b, nil
}

// exponent parses an RSA exponent.
func exponent(s string) (uint32, error) {
	n, err := parseNumber(s)
	switch {
	case errors.Is(err, strconv.ErrRange), strings.HasPrefix(s, "-"):
		return 0, cli.Complain("Exponent must fit into 32bits.")
	case err != nil || n == 0:
		return 0, cli.Complain("Exponent is wrong and cannot be 0.")
	}
	return n, nil
}
