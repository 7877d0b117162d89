package config

import "github.com/swtpm-go/swtpm/internal/nv"

// Storage returns a Config of which only State and Key are set, from the arguments of
// --tpmstate and --key of the classic command line. An empty key is none. env is as for
// Classic.
func Storage(tpmstate, key string, env func(string) string) (*Config, error) {
	l := line{cfg: defaults(), given: map[string]string{}, env: env}
	if tpmstate != "" {
		l.given["tpmstate"] = tpmstate
	}
	if err := l.state(); err != nil {
		return nil, err
	}
	if l.cfg.State.Location.Kind == nv.None {
		return nil, refusal("missing state location; give a PROFILE or --tpmstate dir=PATH")
	}
	k, err := ParseKey(key)
	if err != nil {
		return nil, err
	}
	l.cfg.Key = k
	return l.cfg, nil
}

// ParseKey reads the argument of --key; "" is no key.
func ParseKey(arg string) (Key, error) {
	l := line{cfg: defaults(), given: map[string]string{}}
	if arg != "" {
		l.given["key"] = arg
	}
	err := l.key()
	return l.cfg.Key, err
}

// ParseSeccomp reads the argument of --seccomp into s; "" changes nothing.
func ParseSeccomp(arg string, s *Sandbox) error {
	if arg == "" {
		return nil
	}
	l := line{cfg: defaults(), given: map[string]string{"seccomp": arg}}
	if err := l.seccomp(); err != nil {
		return err
	}
	s.Seccomp = l.cfg.Sandbox.Seccomp
	return nil
}
