package setup

import (
	"os"
	"os/user"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/keyvalue"
)

// confName is the name of the configuration file, sysConfig where the one of the
// machine is.
const (
	confName  = "swtpm_setup.conf"
	sysConfig = keyvalue.SystemDir + "/" + confName

	// distroProfiles is where the distribution's algorithm profiles are.
	distroProfiles = "/usr/share/swtpm/profiles"
)

// settings are the configuration file.
type settings struct{ keyvalue.File }

// value returns the value of key, or fallback if the file does not have the key.
func (s settings) value(key, fallback string) string {
	if v, ok := s.Value(key); ok {
		return v
	}
	return fallback
}

// groupName is the group that runs this, for messages: its number if it has no
// name.
func groupName() string {
	gid := strconv.Itoa(os.Getegid())
	if g, err := user.LookupGroupId(gid); err == nil {
		return g.Name
	}
	return gid
}
