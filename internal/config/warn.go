package config

import (
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// Warnings returns lines about settings with which a TPM starts but cannot be used. The
// classic command line accepts them, as swtpm does.
func (c *Config) Warnings() []string {
	var out []string
	data, ctrl := c.Interface.Server.Kind != None || c.Interface.Device != "", c.Control.Listen.Kind != None
	switch i := c.Interface; {
	case i.Type == "cuse": // its ioctls are the control channel
	case i.Type == "socket" && !data && !ctrl:
		out = append(out, "no channel: no client can reach this TPM; give --ctrl or --server, [control] listen or [interface] server")
	case !ctrl && !c.Flags.NotNeedInit:
		out = append(out, "no control channel and no not-need-init: no client can power this TPM on, every command fails; "+
			"give --ctrl, or --flags not-need-init,startup-clear ([control] listen, [flags] startup)")
	}
	if text := unknownScheme(c.State.Location); text != "" {
		out = append(out, text)
	}
	return out
}

// unknownScheme returns a line about a state location of an unsupported kind, "" for another one.
func unknownScheme(l nv.Location) string {
	if l.Kind != nv.Unsupported {
		return ""
	}
	hint := ""
	switch scheme, _, _ := strings.Cut(l.Path, ":"); scheme {
	case "rbd":
		hint = "; map the image with rbd map, and name its device, file:///dev/rbd/POOL/IMAGE"
	case "iscsi", "nbd":
		hint = "; connect the volume, and name its block device, file:///dev/…"
	}
	return fmt.Sprintf("state: unsupported storage %q: INIT will fail; write dir://PATH, file://PATH for a file or a block device, or store://NAME for a cluster store%s", l, hint)
}
