package listen

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// advice is what a person can do about an address that cannot be had, of one kind of
// endpoint.
var advice = map[config.EndpointKind][]struct {
	err  unix.Errno
	text string
}{
	config.Unix: {
		{unix.ENOENT, "make the directory of the socket, or correct the path"},
		{unix.EACCES, "let this user write to the directory of the socket, or choose another"},
		{unix.EROFS, "choose a directory that can be written to, or add it to the unit with ReadWritePaths="},
		{unix.EADDRINUSE, "remove the socket that is left over there, or choose another path"},
	},
	config.TCP: {
		{unix.EACCES, "choose a port from 1024 on"},
		{unix.EADDRINUSE, "stop who listens there, or choose another port"},
		{unix.EAFNOSUPPORT, "give the unit the network with tcp.conf, or take the port from a .socket unit, \"systemd:ctrl\""},
		{unix.EADDRNOTAVAIL, "correct the address, which this machine does not have"},
	},
}

// advise adds to an error of socket, bind or listen what a person can do about it.
func advise(kind config.EndpointKind, err error) error {
	for _, a := range advice[kind] {
		if errors.Is(err, a.err) {
			return fmt.Errorf("%w; %s", err, a.text)
		}
	}
	return err
}
