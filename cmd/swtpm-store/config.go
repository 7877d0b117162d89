package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/etcd"
)

// config is the file of the broker; swtpm-store.toml(5) describes the keys.
type config struct {
	Socket      string   `toml:"socket"`
	Host        string   `toml:"host"`
	Endpoints   []string `toml:"endpoints"`
	Prefix      string   `toml:"prefix"`
	Generations int      `toml:"generations"`
	Mark        string   `toml:"mark"`
	Observers   []string `toml:"observers"` // users that see who owns which state

	observers map[uint32]bool // UIDs of Observers

	Auth struct {
		User         string `toml:"user"`
		PasswordFile string `toml:"password-file"`
	} `toml:"auth"`

	TLS struct {
		CA          string `toml:"ca"`
		Certificate string `toml:"certificate"`
		Key         string `toml:"key"`
		ServerName  string `toml:"server-name"`
	} `toml:"tls"`

	Lease struct {
		TTL    seconds `toml:"ttl"`
		Margin seconds `toml:"margin"`
		Wait   seconds `toml:"wait"`
		GiveUp seconds `toml:"give-up"`
	} `toml:"lease"`

	Allow []allow `toml:"allow"`
}

// seconds is a duration in the file, such as "15s".
type seconds struct{ time.Duration }

// UnmarshalText parses a duration.
func (s *seconds) UnmarshalText(text []byte) (err error) {
	if s.Duration, err = time.ParseDuration(string(text)); err != nil {
		return fmt.Errorf(`invalid duration %q; e.g. "15s"`, text)
	}
	return nil
}

// load reads and checks the file. Its error names the file, the key and what to do.
func load(file string) (*config, error) {
	c := &config{Socket: "/run/swtpm-store/socket", Prefix: "/swtpm", Generations: 8, Mark: "/var/lib/swtpm-store/mark"}
	c.Lease.TTL.Duration, c.Lease.Margin.Duration = 15*time.Second, 2*time.Second
	c.Lease.Wait.Duration, c.Lease.GiveUp.Duration = 1500*time.Millisecond, time.Minute
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; name a readable file with --config; swtpm-store.toml(5) describes it", err)
	}
	var tree map[string]any
	if _, err = toml.Decode(string(src), &tree); err == nil {
		if err := misshapen(file, string(src), tree); err != nil {
			return nil, err
		}
		_, err = toml.Decode(string(src), c)
	}
	var syntax toml.ParseError
	switch {
	case errors.As(err, &syntax):
		if syntax.LastKey != "" {
			syntax.Message = syntax.LastKey + ": " + syntax.Message
		}
		return nil, fmt.Errorf("%s:%d:%d: %s", file, syntax.Position.Line, syntax.Position.Col, syntax.Message)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// check returns the first fault.
func (c *config) check() error {
	if len(c.Endpoints) == 0 {
		return errors.New(`missing key endpoints: the URLs of the store's members, e.g. endpoints = ["https://etcd1:2379"]`)
	}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" || u.Host == "" && u.Scheme != "unix" {
			return fmt.Errorf(`endpoints: %q is not a URL such as "https://etcd1:2379"`, e)
		}
		if u.Scheme == "https" && c.TLS.CA == "" {
			return fmt.Errorf(`endpoints: %q needs the key ca in [tls]: the file with the certificate of the store's CA`, e)
		}
	}
	l := c.Lease
	switch {
	case c.Prefix == "" || strings.HasSuffix(c.Prefix, "/"):
		return fmt.Errorf("prefix: %q is empty or ends with a slash", c.Prefix)
	case len(c.Host) > 255:
		return fmt.Errorf("host: %d bytes, at most 255 are allowed", len(c.Host))
	case c.Generations < 0 || c.Generations > 1000:
		return fmt.Errorf("generations: %d is not between 0 and 1000", c.Generations)
	case l.TTL.Duration < 5*time.Second || l.TTL.Duration > time.Hour:
		return fmt.Errorf("[lease] ttl: %v is not between 5s and 1h", l.TTL.Duration)
	case l.Margin.Duration <= 0 || l.Margin.Duration > l.TTL.Duration/3:
		return fmt.Errorf("[lease] margin: %v is not between 0 and a third of ttl", l.Margin.Duration)
	case l.Wait.Duration <= 0 || l.Wait.Duration > 5*time.Second:
		return fmt.Errorf("[lease] wait: %v is not between 0 and 5s", l.Wait.Duration)
	case l.GiveUp.Duration < time.Second:
		return fmt.Errorf("[lease] give-up: %v is less than 1s", l.GiveUp.Duration)
	case (c.TLS.Certificate == "") != (c.TLS.Key == ""):
		return errors.New("[tls]: certificate and key belong together")
	case len(c.Allow) == 0:
		return errors.New(`missing table [[allow]]: no TPM could use a state; e.g. users = ["swtpm"], units = ["swtpm@*.service"], states = ["%i"]`)
	}
	for i := range c.Allow {
		if err := c.Allow[i].resolve(); err != nil {
			return fmt.Errorf("[[allow]] no. %d: %w", i+1, err)
		}
	}
	return c.resolveObservers()
}

// defaultObservers are the users of swtpm list and of the metrics of a host.
var defaultObservers = []string{"root", "swtpm-metrics"}

// resolveObservers looks the observers up. One of the defaults may be missing on this host.
func (c *config) resolveObservers() error {
	c.observers = map[uint32]bool{}
	names := c.Observers
	if names == nil {
		names = defaultObservers
	}
	for _, name := range names {
		uid, err := userID(name)
		switch {
		case err == nil:
			c.observers[uid] = true
		case c.Observers != nil:
			return fmt.Errorf("observers: %w", err)
		}
	}
	return nil
}

// userID returns the UID of a user by name or number.
func userID(name string) (uint32, error) {
	id := name
	if u, err := user.Lookup(name); err == nil {
		id = u.Uid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("unknown user %q", name)
	}
	return uint32(n), nil
}

// observes reports whether a client may see who owns which state.
func (c *config) observes(who broker.Credentials) bool { return c.observers[who.UID] }

// etcd returns the options of the store. It reads the certificates and the password.
func (c *config) etcd() (etcd.Options, error) {
	o := etcd.Options{Endpoints: c.Endpoints, Prefix: c.Prefix, User: c.Auth.User}
	if c.Auth.PasswordFile != "" {
		text, err := os.ReadFile(c.Auth.PasswordFile)
		if err != nil {
			return o, fmt.Errorf("[auth] password-file: %w", err)
		}
		o.Password = strings.TrimRight(string(text), "\n")
	}
	if c.TLS.CA == "" {
		return o, nil
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLS.ServerName, RootCAs: x509.NewCertPool()}
	text, err := os.ReadFile(c.TLS.CA)
	if err != nil {
		return o, fmt.Errorf("[tls] ca: %w", err)
	}
	if !o.TLS.RootCAs.AppendCertsFromPEM(text) {
		return o, fmt.Errorf("[tls] ca: %s holds no certificate in PEM format", c.TLS.CA)
	}
	if c.TLS.Certificate == "" {
		return o, nil
	}
	if _, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key); err != nil {
		return o, fmt.Errorf("[tls] certificate: %w", err)
	}
	// The files are read again for each connection: certificates are renewed.
	o.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
		return &pair, err
	}
	return o, nil
}
