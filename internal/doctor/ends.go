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

// config looks for what a profile may not say and a classic command line may.
func (x *exam) config() {
	data, ctrl := x.cfg.Interface.Server, x.cfg.Control.Listen
	switch {
	case x.cfg.Flags.Startup == config.StartupDeactivated && x.cfg.TPM == tpm.V20:
		x.add(Error, "startup-deactivated", "choose startup-clear, startup-state or startup-none", "a TPM 2.0 cannot start deactivated")
	case x.cfg.Interface.Type == config.Socket && data.Kind == config.None && ctrl.Kind == config.None:
		x.add(Warning, "", "give a data or a control channel", "nobody can reach this TPM")
	case ctrl.Kind == config.None && !x.cfg.Flags.NotNeedInit:
		x.add(Warning, "", "give the flag not-need-init or a control channel", "nobody can power this TPM on")
	}
	if data.Kind != config.None && data.Kind == ctrl.Kind && data.String() == ctrl.String() && !(data.Kind == config.TCP && data.Port == 0) {
		x.add(Error, data.String(), "give each an address of its own", "the data and the control channel are the same")
	}
}

func (x *exam) control() {
	e := x.cfg.Control.Listen
	if e.Kind == config.ConnFD && x.descriptor(e.FD) {
		if _, err := unix.GetsockoptInt(e.FD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			x.add(Error, e.String(), "pass a connected socket", "descriptor %d is not a socket: %v", e.FD, err)
		}
	}
	x.end(e)
}

func (x *exam) data() {
	e := x.cfg.Interface.Server
	if e.Kind == config.ConnFD {
		x.descriptor(e.FD)
	}
	x.end(e)
}

// device looks at the device that is the data channel, which is opened before the
// user is changed.
func (x *exam) device() {
	path, what := x.cfg.Interface.Device, "name a character device"
	switch x.cfg.Interface.Type {
	case config.VTPMProxy:
		path, what = "/dev/vtpmx", "modprobe tpm_vtpm_proxy"
		if !dir.HasCap(unix.CAP_SYS_ADMIN) {
			x.add(Error, path, "start as root", "user %d may not make a device of the kernel's", os.Geteuid())
		}
	case config.CUSE:
		if made := "/dev/" + x.cfg.Interface.Name; unix.Access(made, unix.F_OK) == nil {
			x.add(Error, made, "choose another name, or stop who has it", "the device is there already")
		}
		path, what = "/dev/cuse", "modprobe cuse"
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
		x.add(Error, path, what, "%v", err)
	case st.Mode&unix.S_IFMT != unix.S_IFCHR:
		x.add(Error, path, what, "not a character device")
	case unix.Access(path, unix.R_OK|unix.W_OK) != nil:
		x.add(Error, path, "give that user the right", "user %d may not read and write it", os.Geteuid())
	}
}

// descriptor tells whether fd was passed to the program: our own all close on
// exec.
func (x *exam) descriptor(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC == 0 {
		return true
	}
	x.add(Error, fmt.Sprintf("descriptor %d", fd), "let the program that starts the TPM pass it, or name a path or port",
		"no such descriptor was passed to this program")
	return false
}

// end looks at a place where clients will connect.
func (x *exam) end(e config.Endpoint) {
	switch e.Kind {
	case config.None, config.ConnFD:
		return
	case config.Systemd:
		x.add(Note, e.String(), "", "the socket comes from systemd and is not looked at")
		return
	case config.ListenFD:
		if !x.descriptor(e.FD) {
			return
		}
	}
	where := e.String()
	left, err := listen.Look(e)
	switch {
	case errors.Is(err, listen.ErrTaken):
		n := x.add(Error, where, "stop it, or choose another address", "taken: ")
		x.complete(n, func() string {
			holder := x.endHolder(e)
			if e.Kind == config.Unix && holder == "process 1 (systemd)" {
				x.passed(n)
			}
			return holder + " listens there"
		})
	case errors.Is(err, listen.ErrNoSocket):
		x.add(Error, where, "remove it, or choose another path", "%v", listen.ErrNoSocket)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		x.add(Error, where, "correct the address, or wait for the network", "this machine does not have that address")
	case errors.Is(err, unix.EACCES) && e.Kind == config.TCP:
		x.add(Error, where, "choose a port from 1024 on", "user %d may not listen on that port", os.Geteuid())
	case err != nil && e.Kind == config.Unix:
		x.add(Error, where, remedy(err), "no socket can be made: %s", reason(e.Path, err))
	case err != nil:
		x.add(Error, where, "", "%v", err)
	case left:
		x.add(Note, where, "", "a socket that nobody listens on is left over; it will be replaced")
	}
	if e.Kind == config.Unix && err == nil {
		x.endOwner(e)
	}
}

// passed turns finding number n, a path that systemd listens at, into a note: it is the
// socket of a .socket unit, which systemd passes to the service.
func (x *exam) passed(n int) {
	f := &x.report.Findings[n]
	f.Severity, f.Advice = Note, "start the TPM as the service of that .socket unit"
	x.report.Starts = !slices.ContainsFunc(x.report.Findings, func(f Finding) bool { return f.Severity == Error })
}

func (x *exam) endHolder(e config.Endpoint) string {
	if e.Kind == config.Unix {
		return x.listenerAt(e.Path)
	}
	addr, _ := netip.ParseAddr(e.Addr)
	return x.listenerOn(addr, uint16(e.Port))
}

// endOwner looks whether the socket can be given its owner and group, and whether
// who is meant to can get to it.
func (x *exam) endOwner(e config.Endpoint) {
	groups, _ := unix.Getgroups()
	foreignUser := e.UID >= 0 && e.UID != os.Geteuid()
	foreignGroup := e.GID >= 0 && e.GID != os.Getegid() && !slices.Contains(groups, e.GID)
	if (foreignUser || foreignGroup) && !dir.HasCap(unix.CAP_CHOWN) {
		x.add(Error, e.String(), "leave uid and gid out, choose a group of that user, or start as root",
			"user %d may not give the socket to %d:%d", os.Geteuid(), e.UID, e.GID)
	}
	parent := filepath.Dir(e.Path)
	var st unix.Stat_t
	if unix.Stat(parent, &st) == nil && st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
		x.add(Warning, describe(parent), "choose a directory that only this user can write to", "others can put a socket of theirs in its place")
	}
}
