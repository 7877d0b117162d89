package ca

import (
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/keyvalue"
)

// ConfigName is the name of the configuration file where package conf looks for
// it.
const ConfigName = "swtpm-localca.conf"

// defaultPIN is the PIN of tokens that swtpm-create-tpmca has made.
const defaultPIN = "swtpm-tpmca"

// Config says where a CA is: swtpm-localca.conf.
type Config struct {
	StateDir   string // statedir: for the lock
	SigningKey string // signingkey: path of a PEM file, or URI of a key in a token
	IssuerCert string // issuercert: path of a PEM file
	Serial     string // certserial: path of the file with the last serial number

	Password string // signingkey_password: of the PEM file, or a PIN; "" for none
	PIN      string // SWTPM_PKCS11_PIN: of a token unless there is a Password

	// Env are the lines env:NAME = VALUE, as NAME=VALUE: for the module that
	// reaches a token.
	Env []string
}

// LoadConfig reads the configuration file at path.
func LoadConfig(path string) (*Config, error) {
	file, err := keyvalue.Read(path)
	if err != nil {
		return nil, cli.Complain("Need read rights on config file %s for user %s.%s", path, keyvalue.UserName(), keyvalue.OwnFiles())
	}
	return parseConfig(path, file)
}

// parseConfig takes the keys from the text of the file at path.
func parseConfig(path string, file keyvalue.File) (*Config, error) {
	c := &Config{PIN: defaultPIN}
	for _, key := range []struct {
		name string
		to   *string
	}{{"statedir", &c.StateDir}, {"signingkey", &c.SigningKey}, {"issuercert", &c.IssuerCert}} {
		var ok bool
		if *key.to, ok = file.Value(key.name); !ok || *key.to == "" {
			return nil, cli.Complain("Missing '%s' config value in config file %s.", key.name, path)
		}
	}
	c.SigningKey = strings.ReplaceAll(c.SigningKey, `\;`, ";")
	if c.Serial, _ = file.Value("certserial"); c.Serial == "" {
		c.Serial = filepath.Join(c.StateDir, "certserial")
	}
	c.Password, _ = file.Value("signingkey_password")
	if pin, ok := file.Value("SWTPM_PKCS11_PIN"); ok {
		c.PIN = pin
	}
	if c.InToken() {
		c.Env = environment(file)
	}
	return c, nil
}

// InToken says that the signing key is not in a file.
func (c *Config) InToken() bool {
	for _, scheme := range []string{"pkcs11:", "tpm2:", "tpmkey:"} {
		if strings.HasPrefix(c.SigningKey, scheme) {
			return true
		}
	}
	return false
}

// environment returns the lines env:NAME = VALUE as NAME=VALUE. A value ends with
// its line: "#" and ${} mean nothing in it.
func environment(file keyvalue.File) (env []string) {
	for line := range strings.Lines(string(file)) {
		rest, ok := strings.CutPrefix(line, "env:")
		if !ok {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSuffix(rest, "\n"), "=")
		if name = strings.TrimRight(name, " \t"); ok && isName(name) {
			env = append(env, name+"="+strings.TrimLeft(value, " \t"))
		}
	}
	return env
}

// isName tells whether s may be the name of a variable.
func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
