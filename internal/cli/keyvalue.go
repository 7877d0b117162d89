package cli

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// maxSize is the largest size of a configuration file, which has a few hundred bytes.
const maxSize = 1 << 20

// ConfigFile is the text of a configuration file of swtpm_setup or swtpm_localca: lines of the form
// KEY = VALUE.
type ConfigFile string

// ReadConfig returns the text of the file at path; see safefile.ReadInput.
func ReadConfig(path string) (ConfigFile, error) {
	b, err := safefile.ReadInput(path, maxSize)
	return ConfigFile(b), err
}

// Value returns the value of the first line with that key, without what follows
// a "#" and without the blanks around it, and with the environment's values for
// ${NAME}. The key is at the very beginning of its line.
func (f ConfigFile) Value(key string) (value string, ok bool) {
	for line := range strings.Lines(string(f)) {
		rest, found := strings.CutPrefix(line, key)
		if !found {
			continue
		}
		rest, found = strings.CutPrefix(strings.TrimLeft(rest, blanks), "=")
		if !found {
			continue
		}
		rest, _, _ = strings.Cut(rest, "#")
		return expand(strings.Trim(rest, blanks)), true
	}
	return "", false
}

const blanks = " \t\r\n\v\f"

// expand replaces ${NAME} with the value of the environment, "" if there is
// none. "${" without "}" stays as it is.
func expand(s string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		name, after, found := strings.Cut(rest, "}")
		if !found {
			out.WriteString("${" + rest)
			return out.String()
		}
		out.WriteString(os.Getenv(name))
		s = after
	}
}

// SystemDir is the directory with the configuration of the machine.
const SystemDir = "/etc"

// FindConfig returns the path of the configuration file with that name: the user's file if it is
// readable, otherwise the machine's, which may be missing.
func FindConfig(name string) string {
	if dir := UserDir(); dir != "" {
		if path := filepath.Join(dir, name); unix.Access(path, unix.R_OK) == nil {
			return path
		}
	}
	return filepath.Join(SystemDir, name)
}

// UserDir returns the directory with the user's configuration, "" if there is none:
// $XDG_CONFIG_HOME, or .config in the home directory, which comes from $HOME or else from
// the password file.
func UserDir() string {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return dir
	}
	home := os.Getenv("HOME")
	if home == "" {
		u, err := user.Current()
		if err != nil {
			return ""
		}
		home = u.HomeDir
	}
	return filepath.Join(home, ".config")
}

// UserName returns the name of the user of this process for messages, or the number of a
// user without a name.
func UserName() string {
	uid := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// OwnFiles returns a sentence, after a blank, for an ordinary user who lacks the rights
// to the machine's configuration or CA; "" for root.
func OwnFiles() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return " For a configuration and a CA of this user run: swtpm_setup --create-config-files skip-if-exist"
}
