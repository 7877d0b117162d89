package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxPath is the length of the longest path of a Unix socket, in bytes: 108 of
// struct sockaddr_un without the NUL.
const maxPath = 107

// address returns the value for an endpoint in the syntax of a profile:
//
//	unix:PATH            a Unix socket to listen on
//	tcp:HOST:PORT        a TCP socket to listen on; HOST is a literal address,
//	                     IPv6 in brackets, link-local as [fe80::1%eth0]
//	fd:N                 an inherited listening socket
//	clientfd:N           an inherited connection
//	systemd:NAME         a listening socket of a .socket unit, by its
//	                     FileDescriptorName=
func (e *Endpoint) address() value {
	return value{
		parse:    anyForm(e.setAddress),
		fromTOML: tomlString,
		toTOML:   func() (any, bool) { return textOrNil(e.String()), true },
		want:     addressForms,
		exact:    true,
		rebase: func(dir string) {
			if e.Kind == Unix {
				e.Path = beneath(dir, e.Path)
			}
		},
		descriptor: func() (int, bool) { return e.FD, e.Kind == ListenFD || e.Kind == ConnFD },
	}
}

// addressForms are the forms of an address.
const addressForms = `"unix:PATH", "tcp:HOST:PORT", "systemd:NAME", "fd:N" (a listening socket) or "clientfd:N" (a connection)`

func (e *Endpoint) setAddress(s string) error {
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "unix":
		if rest == "" {
			return errors.New("missing path")
		}
		e.Kind, e.Path = Unix, rest
		return nil
	case "tcp":
		return e.setTCP(rest)
	case "fd", "clientfd":
		fd, err := strconv.ParseUint(rest, 10, 31)
		if err != nil {
			return fmt.Errorf("invalid file descriptor %q", rest)
		}
		e.Kind, e.FD = ListenFD, int(fd)
		if scheme == "clientfd" {
			e.Kind = ConnFD
		}
		return nil
	case "systemd":
		if !isSocketName(rest) {
			return fmt.Errorf("invalid socket name %q", rest)
		}
		e.Kind, e.Name = Systemd, rest
		return nil
	}
	return fmt.Errorf("unknown kind of address %q", s)
}

// isSocketName reports whether systemd takes s as a FileDescriptorName=.
//
// Source: systemd.socket(5): up to 255 characters of ASCII, no control
// characters and no colons.
func isSocketName(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f || r == ':' })
}

// setTCP makes e the TCP socket HOST:PORT.
func (e *Endpoint) setTCP(s string) error {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return fmt.Errorf("%q has no port", s)
	}
	host := s[:colon]
	port, err := strconv.ParseUint(s[colon+1:], 10, 16)
	if err != nil {
		return fmt.Errorf("%q is not a port from 0 to 65535", s[colon+1:])
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		var closed bool
		if host, closed = strings.CutSuffix(inner, "]"); !closed {
			return fmt.Errorf("%q has no closing bracket", s)
		}
	}
	host, ifname, zoned := strings.Cut(host, "%")
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a literal IPv4 or IPv6 address, such as 127.0.0.1 or [::1]", host)
	case ip.Is6() != bracketed:
		return fmt.Errorf("%q: brackets are for an IPv6 address, and only for it", s)
	case zoned && (ifname == "" || !ip.Is6()):
		return fmt.Errorf("%q: the name after %% is the network interface of an IPv6 address", s)
	case ip.Is6() && ip.IsLinkLocalUnicast() && ifname == "":
		return fmt.Errorf("%q: a link-local address needs its network interface, as in [%s%%eth0]", s, host)
	}
	e.Kind, e.Addr, e.Port, e.IfName = TCP, host, int(port), ifname
	return nil
}

// String returns e in the syntax of a profile, "" for none.
func (e Endpoint) String() string {
	switch e.Kind {
	case Unix:
		return "unix:" + e.Path
	case ListenFD:
		return "fd:" + strconv.Itoa(e.FD)
	case ConnFD:
		return "clientfd:" + strconv.Itoa(e.FD)
	case Systemd:
		return "systemd:" + e.Name
	case TCP:
		host := e.Addr
		if e.IfName != "" {
			host += "%" + e.IfName
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return "tcp:" + host + ":" + strconv.Itoa(e.Port)
	}
	return ""
}

// endpointOptions are the suboptions of --server and --ctrl that describe an endpoint.
type endpointOptions struct {
	kind         string
	path         string
	addr, ifName string
	port         int
	fd, clientFD int
	root         *string // the new root directory; see Endpoint.keys
}

// channelType returns the value for the kind of socket of a channel. It accepts any text, because
// --server and --ctrl have different messages for an unknown kind.
func (p *endpointOptions) channelType() value {
	v := text(&p.kind)
	v.want, v.arg = `"unixio" or "tcp"`, "unixio|tcp"
	return v
}

// newEndpointOptions returns the defaults of --server and --ctrl.
func newEndpointOptions(root *string) *endpointOptions {
	return &endpointOptions{addr: "127.0.0.1", port: -1, fd: -1, clientFD: -1, root: root}
}

// Owner returns the owner and the group for a Unix socket, -1 for no
// change. Names are looked up in the current root directory.
func (e Endpoint) Owner() (uid, gid int, err error) {
	uid, gid = e.UID, e.GID
	if e.User != "" {
		if uid, err = lookupOwner(e.User, false); err != nil {
			return -1, -1, fmt.Errorf("User '%s' does not exist.", e.User) //lint:ignore ST1005 the words of the reference
		}
	}
	if e.Group != "" {
		if gid, err = lookupOwner(e.Group, true); err != nil {
			return -1, -1, fmt.Errorf("Group '%s' does not exist.", e.Group) //lint:ignore ST1005 the words of the reference
		}
	}
	return uid, gid, nil
}

func (p *endpointOptions) keys(ks keys, hint string) keys {
	return append(ks, keys{
		{name: "type", in: option, help: "the kind of socket; of --server tcp without it", value: p.channelType(), hint: hint},
		{name: "fd", in: option, help: "an inherited socket that listens; with tcp of --server a connection", value: number(&p.fd, 0), hint: `"fd:N" as the address`},
		{name: "path", in: option, help: "unixio: the path of the socket", value: file(&p.path), hint: hint},
		{name: "port", in: option, help: "tcp: the port; of --server $TPM_PORT without it", value: number(&p.port, 0).called("PORT"), hint: hint},
		{name: "bindaddr", in: option, help: "tcp: the address (127.0.0.1)", value: text(&p.addr).called("ADDR"), hint: hint},
		{name: "ifname", in: option, help: "tcp: the interface of an IPv6 link-local address", value: text(&p.ifName).called("IF"), hint: hint},
	}...)
}

// tcp makes e the TCP socket of p. out begins the error text for a port that is too large.
func (p *endpointOptions) tcp(e *Endpoint, out string) error {
	if p.port > 65535 {
		return refuse("%s; %d is not between 0 and 65535", out, p.port)
	}
	ip, err := netip.ParseAddr(p.addr)
	switch {
	case err != nil || ip.Zone() != "":
		return refuse("Could not parse the bind address '%s'; want an IP address, such as 127.0.0.1 or ::1", p.addr)
	case ip.Is6() && ip.IsLinkLocalUnicast() && p.ifName == "":
		return refusal("Missing interface name for link local address")
	}
	e.Kind, e.Addr, e.Port = TCP, p.addr, p.port
	if ip.Is6() {
		e.IfName = p.ifName
	}
	return nil
}

// unix makes e the Unix socket of p.
func (p *endpointOptions) unix(e *Endpoint) error {
	if len(p.path) > maxPath {
		// Compat: C-234: the spelling
		return refuse("Path for UnioIO socket is too long: %q has %d bytes, the limit is %d; choose a shorter path, or a relative one",
			p.path, len(p.path), maxPath)
	}
	e.Kind, e.Path = Unix, p.path
	return nil
}

// inherit makes e the descriptor fd, which must be a socket unless another process runs
// the command line. use describes the descriptor in the error message.
func (l *line) inherit(e *Endpoint, kind EndpointKind, fd int, use string) error {
	if !l.foreign && !isSocket(fd) {
		return refuse("Bad filedescriptor %d for %s; let the program that starts this one pass a socket as %d", fd, use, fd)
	}
	e.Kind, e.FD = kind, fd
	return nil
}

// ParseSocket reads the address of a socket for a client: unix:PATH, tcp:HOST:PORT, or a
// path that contains a slash.
func ParseSocket(s string) (e Endpoint, err error) {
	if strings.Contains(s, "/") && !strings.HasPrefix(s, "unix:") {
		return Endpoint{Kind: Unix, Path: s}, nil
	}
	if err = e.setAddress(s); err == nil && e.Kind != Unix && e.Kind != TCP {
		err = fmt.Errorf("%q is not an address for a client", s)
	}
	if err != nil {
		return e, fmt.Errorf("%w; use a path with a slash, unix:PATH or tcp:HOST:PORT", err)
	}
	return e, nil
}
