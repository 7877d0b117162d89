package setup

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where things are that the configuration does not name.
const (
	sysDir    = "/etc"
	sysConfig = sysDir + "/swtpm_setup.conf"

	// distroProfiles is where the distribution's algorithm profiles are.
	distroProfiles = "/usr/share/swtpm/profiles"
)

// conf is a configuration file, swtpm_setup.conf or swtpm-localca.conf.
type conf struct {
	lines []string
	env   func(string) string
}

// userDir is the directory of a user's configuration files; "" if the user has no
// home.
func userDir(env func(string) string) string {
	if dir := env("XDG_CONFIG_HOME"); dir != "" {
		return dir
	}
	home := env("HOME")
	if home == "" {
		var err error
		if home, err = homeOf(os.Getuid()); err != nil {
			return ""
		}
	}
	return filepath.Join(home, ".config")
}

// defaultConfig is the file that is used if no option names one: the user's if it
// can be read, else the system's.
func defaultConfig(env func(string) string) string {
	if dir := userDir(env); dir != "" {
		if path := filepath.Join(dir, "swtpm_setup.conf"); unix.Access(path, unix.R_OK) == nil {
			return path
		}
	}
	return sysConfig
}

// readConf reads a configuration file.
func readConf(path string, env func(string) string) (*conf, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseConf(string(b), env), nil
}

func parseConf(text string, env func(string) string) *conf {
	return &conf{strings.Split(text, "\n"), env}
}

// value returns the value of the first line that begins with key, or fallback:
//
//	key [blanks] = value [# comment]
//
// Blanks around the value go, ${NAME} becomes what the environment has for it,
// nothing if it has nothing. A line must not begin with blanks.
//
// Source: swtpm 0.11, src/utils/swtpm_conf.c; man swtpm_setup.conf.
func (c *conf) value(key, fallback string) string {
	for _, line := range c.lines {
		rest, ok := strings.CutPrefix(line, key)
		if !ok {
			continue
		}
		rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "=")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, "#")
		return c.expand(strings.Trim(rest, " \t\v\f\r"))
	}
	return fallback
}

// expand puts in the environment. A "${" without its "}" stays.
func (c *conf) expand(s string) string {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "${")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			out.WriteString("${" + rest)
			return out.String()
		}
		out.WriteString(c.env(name))
		s = after
	}
}
