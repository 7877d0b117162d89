package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/io/listen"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// config checks for mistakes that a profile cannot have, but a classic command line can.
func (x *examination) config() {
	data, ctrl := x.cfg.Interface.Server, x.cfg.Control.Listen
	switch {
	case x.cfg.Flags.Startup == config.StartupDeactivated && x.cfg.TPM == tpm.V20:
		x.add(Error, "startup-deactivated", "choose startup-clear, startup-state or startup-none", "a TPM 2.0 cannot start deactivated")
	case x.cfg.Interface.Type == config.Socket && data.Kind == config.None && ctrl.Kind == config.None:
		x.add(Warning, "", "configure a data or a control channel", "no client can reach this TPM")
	case ctrl.Kind == config.None && !x.cfg.Flags.NotNeedInit:
		x.add(Warning, "", "configure a control channel, or set the flag not-need-init", "no client can power this TPM on")
	}
	if data.Kind != config.None && data.Kind == ctrl.Kind && data.String() == ctrl.String() && !(data.Kind == config.TCP && data.Port == 0) {
		x.add(Error, data.String(), "use different addresses", "the data and the control channel have the same address")
	}
}

func (x *examination) control() {
	e := x.cfg.Control.Listen
	if e.Kind == config.ConnFD && x.descriptor(e.FD) {
		if _, err := unix.GetsockoptInt(e.FD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			x.add(Error, e.String(), "pass a connected socket", "descriptor %d is not a socket: %v", e.FD, err)
		}
	}
	x.channel(e)
}

func (x *examination) data() {
	e := x.cfg.Interface.Server
	if e.Kind == config.ConnFD {
		x.descriptor(e.FD)
	}
	x.channel(e)
}

// device checks the device of the data channel. A start opens it before it changes the user.
func (x *examination) device() {
	path, advice := x.cfg.Interface.Device, "name a character device"
	switch x.cfg.Interface.Type {
	case config.VTPMProxy:
		path, advice = "/dev/vtpmx", "modprobe tpm_vtpm_proxy"
		if !dir.HasCap(unix.CAP_SYS_ADMIN) {
			x.add(Error, path, "start as root", "user %d may not create a vTPM device", os.Geteuid())
		}
	case config.CUSE:
		if device := "/dev/" + x.cfg.Interface.Name; unix.Access(device, unix.F_OK) == nil {
			x.add(Error, device, "choose another name, or stop the process that created it", "the device already exists")
		}
		path, advice = "/dev/cuse", "modprobe cuse"
	case config.Chardev:
		if path == "" {
			return
		}
	default:
		return
	}
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case err != nil:
		x.add(Error, path, advice, "%v", err)
	case st.Mode&unix.S_IFMT != unix.S_IFCHR:
		x.add(Error, path, advice, "not a character device")
	case unix.Access(path, unix.R_OK|unix.W_OK) != nil:
		x.add(Error, path, "grant that user access", "user %d has no permission to read and write", os.Geteuid())
	}
}

// descriptor reports whether fd was inherited. All other descriptors have FD_CLOEXEC.
func (x *examination) descriptor(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC == 0 {
		return true
	}
	x.add(Error, fmt.Sprintf("descriptor %d", fd), "make the program that starts the TPM pass it, or use a path or port",
		"the descriptor was not passed to this program")
	return false
}

// channel checks the address of a channel.
func (x *examination) channel(e config.Endpoint) {
	switch e.Kind {
	case config.None, config.ConnFD:
		return
	case config.Systemd:
		x.add(Note, e.String(), "", "not checked: the socket comes from systemd")
		return
	case config.ListenFD:
		if !x.descriptor(e.FD) {
			return
		}
	}
	where := e.String()
	left, err := listen.Check(e)
	switch {
	case errors.Is(err, listen.ErrInUse):
		n := x.add(Error, where, "stop it, or choose another address", "in use: ")
		x.complete(n, func() string {
			holder := x.channelHolder(e)
			if e.Kind == config.Unix && holder == "process 1 (systemd)" {
				x.passedBySystemd(n)
			}
			return holder + " listens there"
		})
	case errors.Is(err, listen.ErrNotSocket):
		x.add(Error, where, "remove it, or choose another path", "%v", listen.ErrNotSocket)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		x.add(Error, where, "correct the address, or wait for the network", "this host does not have that address")
	case errors.Is(err, unix.EACCES) && e.Kind == config.TCP:
		x.add(Error, where, "choose a port above 1023", "user %d may not listen on that port", os.Geteuid())
	case err != nil && e.Kind == config.Unix:
		x.add(Error, where, Path(err), "cannot create a socket: %s", reason(e.Path, err))
	case err != nil:
		x.add(Error, where, "", "%v", err)
	case left:
		x.add(Note, where, "", "a socket of an earlier process exists; it will be replaced")
	}
	if e.Kind == config.Unix && err == nil {
		x.channelOwner(e)
	}
}

// passedBySystemd turns finding n, a path at which systemd listens, into a note: systemd passes
// the socket of a .socket unit to the service.
func (x *examination) passedBySystemd(n int) {
	f := &x.report.Findings[n]
	f.Severity, f.Advice = Note, "start the TPM as the service of that .socket unit"
	x.report.Starts = !slices.ContainsFunc(x.report.Findings, func(f Finding) bool { return f.Severity == Error })
}

func (x *examination) channelHolder(e config.Endpoint) string {
	if e.Kind == config.Unix {
		return x.listenerAt(e.Path)
	}
	addr, _ := netip.ParseAddr(e.Addr)
	return x.listenerOn(addr, uint16(e.Port))
}

// channelOwner checks that the socket can have its owner and group, and that other users
// cannot replace it.
func (x *examination) channelOwner(e config.Endpoint) {
	groups, _ := unix.Getgroups()
	foreignUser := e.UID >= 0 && e.UID != os.Geteuid()
	foreignGroup := e.GID >= 0 && e.GID != os.Getegid() && !slices.Contains(groups, e.GID)
	if (foreignUser || foreignGroup) && !dir.HasCap(unix.CAP_CHOWN) {
		x.add(Error, e.String(), "omit uid and gid, choose a group of that user, or start as root",
			"user %d may not change the owner of the socket to %d:%d", os.Geteuid(), e.UID, e.GID)
	}
	parent := filepath.Dir(e.Path)
	var st unix.Stat_t
	if unix.Stat(parent, &st) == nil && st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
		x.add(Warning, describe(parent), "choose a directory that only this user can write to", "other users can replace the socket")
	}
}
