package cli

import (
	"errors"
	"math"
	"net"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Target names the TPM that a tool connects to. An option that was not given is nil. Of
// several options the device counts, then TCP.
type Target struct {
	Device *string // path of a character device
	TCP    *Address
	Unix   *string // path of a socket
}

// Address is a host and a port of TCP, each as text.
type Address struct{ Host, Port string }

// String returns HOST:PORT, an IPv6 address in brackets.
func (a Address) String() string { return net.JoinHostPort(a.Host, a.Port) }

// Options returns the options that set t. port is the default TCP port.
func (t *Target) Options(port string) []Option {
	return []Option{
		{Name: "tpm-device", Arg: "<device>", Help: "use the given device",
			Set: func(arg, _ string) error { t.Device = &arg; return nil }},
		{Name: "tcp", Arg: "[<host>]:[<prt>]",
			Help: "connect to TPM on given host and port;\ndefault host is 127.0.0.1, default port is " + port,
			Set: func(arg, _ string) (err error) {
				t.TCP, err = parseAddress(arg, port)
				return err
			}},
		{Name: "unix", Arg: "<path>", Help: "connect to TPM using UnixIO socket",
			Set: func(arg, _ string) error { t.Unix = &arg; return nil }},
	}
}

// parseAddress splits [HOST][:[PORT]] at the last colon.
func parseAddress(s, port string) (*Address, error) {
	a := Address{s, port}
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		a.Host = s[:i]
		if s != ":" {
			a.Port = s[i+1:]
		}
	}
	a.Host = strings.TrimSuffix(strings.TrimPrefix(a.Host, "["), "]")
	if a.Host == "" {
		a.Host = "127.0.0.1"
	}
	return &a, CheckPort(a.Port)
}

// maxPath is the length in bytes of the longest path of a Unix socket.
const maxPath = 107

// CheckPath returns an error if path is too long for a Unix socket.
func CheckPath(path string) error {
	if len(path) > maxPath {
		return Complain("Socket path is too long. %q has %d bytes, the limit is %d.", path, len(path), maxPath)
	}
	return nil
}

// CheckPort returns an error if the port is not a decimal number up to 65535.
func CheckPort(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxUint16:
		return Complain("Port '%s' outside valid range.", s)
	case err != nil:
		return Complain("Invalid port '%s'", s)
	}
	return nil
}

// ResolveError returns the complaint about a host name that cannot be resolved, nil if
// err has another cause.
func ResolveError(host string, err error) error {
	dns, ok := errors.AsType[*net.DNSError](err)
	if !ok {
		return nil
	}
	cause := dns.Err
	if dns.IsNotFound {
		cause = "Name or service not known"
	}
	return Complain("getaddrinfo failed on host '%s': %s", host, cause)
}

// Strerror returns the text of C's strerror for the system error in err: Go has the same
// texts with a small first letter. It returns the text of any other error unchanged.
func Strerror(err error) string {
	e, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return err.Error()
	}
	s := e.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
