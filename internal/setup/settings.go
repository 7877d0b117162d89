package setup

import (
	"os"
	"os/user"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// confName is the name of the configuration file, sysConfig the path of the
// system-wide one.
const (
	confName  = "swtpm_setup.conf"
	sysConfig = cli.SystemDir + "/" + confName

	// distroProfiles is the directory of the distribution's algorithm profiles.
	distroProfiles = "/usr/share/swtpm/profiles"
)

// settings is the content of the configuration file.
type settings struct{ cli.ConfigFile }

// value returns the value of key, or fallback if the file does not have the key.
func (s settings) value(key, fallback string) string {
	if v, ok := s.Value(key); ok {
		return v
	}
	return fallback
}

// groupName returns the name of the effective group, or its number if it has none.
func groupName() string {
	gid := strconv.Itoa(os.Getegid())
	if g, err := user.LookupGroupId(gid); err == nil {
		return g.Name
	}
	return gid
}
