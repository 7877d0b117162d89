package config

import "github.com/swtpm-go/swtpm/internal/nv"

// ctrl sets the control channel from --ctrl.
func (l *line) ctrl() error {
	p, c := newEndpointOptions(&l.cfg.Sandbox.Chroot), &l.cfg.Control
	o, ks, err := l.read("ctrl", "ctrl", func(ks keys) keys { return c.keys(ks, p) })
	if err != nil || o == nil {
		return err
	}
	if !o.has("type") {
		return refusal("Missing type parameter for control channel")
	}
	if err := fill(o, "ctrl", ks); err != nil {
		return err
	}
	e := &c.Listen
	switch {
	case p.kind != "unixio" && p.kind != "tcp":
		return refuse("Unsupported control channel type: %s; want unixio or tcp", p.kind)
	case p.kind == "tcp" && p.fd >= 0:
		err = l.inherit(e, ListenFD, p.fd, "TCP control channel")
	case p.kind == "tcp" && p.port < 0:
		err = refusal("Missing port and fd options for TCP control channel")
	case p.kind == "tcp":
		err = p.tcp(e, "TCP control channel port outside valid range")
	case p.fd >= 0:
		err = l.inherit(e, ListenFD, p.fd, "UnixIO control channel")
	case p.clientFD >= 0:
		err = l.inherit(e, ConnFD, p.clientFD, "UnixIO client control channel")
	case p.path == "":
		err = refusal("Missing path and fd options for UnixIO control channel")
	default:
		err = p.unix(e)
	}
	e.plain()
	return err
}

// server sets the data channel from --server and --port, or --fd.
func (l *line) server() error {
	p, i := newEndpointOptions(&l.cfg.Sandbox.Chroot), &l.cfg.Interface
	o, ks, err := l.read("server", "server", func(ks keys) keys { return l.cfg.interfaceKeys(ks, p) })
	if err != nil {
		return err
	}
	if o != nil {
		p.kind = "tcp"
		if err := fill(o, "server", ks); err != nil {
			return err
		}
		if err := l.listen(p, o.has("port")); err != nil {
			return err
		}
	}
	if l.fd >= 0 { // an inherited connection has precedence over a listening socket
		i.Server = Endpoint{Kind: ConnFD, FD: l.fd}
		i.Disconnect = false
	}
	i.Server.plain()
	return nil
}

// vtpmProxy applies --vtpm-proxy, after --locality and before --flags, which may override it.
func (l *line) vtpmProxy() error {
	if !l.proxy {
		return nil
	}
	if l.fd >= 0 || l.cfg.Interface.Device != "" {
		return refusal("Cannot use vTPM proxy with a provided device.")
	}
	l.cfg.choose(VTPMProxy)
	return nil
}

// chardev applies --chardev or --fd of swtpm chardev.
//
// Compat: C-229: --print-info needs no device.
func (l *line) chardev() error {
	i := &l.cfg.Interface
	switch {
	case l.fd >= 0:
		i.Server.Kind, i.Server.FD = ConnFD, l.fd
	case i.Type == Chardev && i.Device == "" && l.cfg.PrintInfo == 0:
		return refusal("Error: Missing character device or file descriptor; write --chardev PATH, --fd NUMBER or --vtpm-proxy")
	}
	return nil
}

// listen makes the endpoint of --server from p.
func (l *line) listen(p *endpointOptions, hasPort bool) error {
	i := &l.cfg.Interface
	e := &i.Server
	switch {
	case p.kind != "unixio" && p.kind != "tcp":
		return refuse("Unsupported socket type: %s; want unixio or tcp", p.kind)
	case p.kind == "unixio" && p.fd >= 0:
		return l.inherit(e, ListenFD, p.fd, "UnixIO control channel") // Compat: C-230
	case p.kind == "unixio" && p.path == "":
		return refusal("Missing path and file descriptor option for UnixIO socket")
	case p.kind == "unixio":
		return p.unix(e)
	case p.fd >= 0: // Compat: C-231: a connection, other than with unixio
		i.Terminate = true
		return l.inherit(e, ConnFD, p.fd, "TCP socket")
	}
	if !hasPort {
		if port, ok := leadingInt(l.port); ok {
			p.port = port
		}
	}
	if p.port < 0 {
		return refuse("No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT.")
	}
	return p.tcp(e, "TCP socket port outside valid range")
}

// plain resets the fields of e that its kind does not use, so that two Configs with the
// same effect are equal.
func (e *Endpoint) plain() {
	if e.Kind != Unix {
		e.Path, e.Mode, e.UID, e.GID, e.User, e.Group = "", 0o770, -1, -1, "", ""
	}
	if e.Kind != TCP {
		e.Addr, e.Port, e.IfName = "", 0, ""
	}
	if e.Kind != ListenFD && e.Kind != ConnFD {
		e.FD = -1
	}
}

// The exit codes of swtpm cuse, which are small negative numbers there.
//
// Source: swtpm, cuse_tpm.c.
const (
	cuseRefused = 255 // -1: no state location, a wrong number
	cuseNoName  = 254 // -2
	cuseOption  = 253 // -3: an option with suboptions
)

// exits returns a step that sets the exit code for errors of the steps after it.
func (l *line) exits(code int) func() error {
	return func() error {
		l.code = code
		return nil
	}
}

// device checks --name, and applies what swtpm cuse implies: a daemon, which removes the device when
// it ends.
func (l *line) device() error {
	if l.cfg.Interface.Name == "" {
		l.code = cuseNoName
		return refusal("Error: device name missing; give --name NAME")
	}
	l.cfg.Daemon = l.cfg.PrintInfo == 0
	l.cfg.State.Create = true // Compat: C-129: only here
	return nil
}

// requireState fails if no location of the state is configured.
func (l *line) requireState() error {
	if l.cfg.State.Location.Kind == nv.None {
		return refusal("Error: Missing state directory or file; TPM_PATH is not set")
	}
	return nil
}
