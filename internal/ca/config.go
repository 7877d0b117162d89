package ca

import (
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// configName is the name of the configuration file in the directories of configuration
// files.
const configName = "swtpm-localca.conf"

// defaultPIN is the PIN of tokens that swtpm-create-tpmca creates.
const defaultPIN = "swtpm-tpmca"

// Config is the configuration of a CA, swtpm-localca.conf.
type Config struct {
	StateDir   string // statedir: directory of the lock file
	SigningKey string // signingkey: path of a PEM file, or URI of a key in a token
	IssuerCert string // issuercert: path of a PEM file
	Serial     string // certserial: path of the file with the last serial number

	Password string // signingkey_password: password of the PEM file, or a PIN; "" for none
	PIN      string // SWTPM_PKCS11_PIN: PIN of a token if there is no Password

	// Env is the environment of a PKCS #11 module, as NAME=VALUE: the lines
	// env:NAME = VALUE.
	Env []string
}

// LoadConfig reads the configuration file at path; "" stands for the file of the user or
// of the system.
func LoadConfig(path string) (*Config, error) {
	if path == "" {
		path = cli.FindConfig(configName)
	}
	file, err := cli.ReadConfig(path)
	if err != nil {
		return nil, cli.Complain("Need read rights on config file %s for user %s.%s", path, cli.UserName(), cli.OwnFiles())
	}
	return parseConfig(path, file)
}

// parseConfig parses the configuration file; path is used in messages.
func parseConfig(path string, file cli.ConfigFile) (*Config, error) {
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

// InToken reports whether the signing key is in a token or a TPM instead of a file.
func (c *Config) InToken() bool {
	for _, scheme := range []string{"pkcs11:", "tpm2:", "tpmkey:"} {
		if strings.HasPrefix(c.SigningKey, scheme) {
			return true
		}
	}
	return false
}

// environment returns the lines env:NAME = VALUE as NAME=VALUE. A value ends at the end of
// its line: "#" and ${} have no meaning in it.
func environment(file cli.ConfigFile) (env []string) {
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

// isName reports whether s is a valid name of a variable.
func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
