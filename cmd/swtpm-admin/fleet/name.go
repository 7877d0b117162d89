package fleet

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// named contains the facts about a TPM that follow from a path.
type named struct {
	manager, name, vm string

	dir  string // of the socket
	user bool   // the directory may belong to any user
}

// paths are where programs put the control sockets of their TPMs. The first group of a
// pattern is the name.
//
// Source: libvirt, src/qemu/qemu_tpm.c; Incus, internal/server/device/tpm.go; Proxmox,
// PVE/QemuServer.pm; systemd, src/vmspawn/vmspawn.c.
var paths = []struct {
	manager string
	user    bool // the manager may run as any user
	pattern *regexp.Regexp
}{
	{"libvirt", false, regexp.MustCompile(`^/(?:var/)?run/libvirt/qemu/swtpm/\d+-(.+)-swtpm\.sock$`)},
	{"libvirt", true, regexp.MustCompile(`/libvirt/qemu/run/swtpm/\d+-(.+)-swtpm\.sock$`)},
	{"proxmox", false, regexp.MustCompile(`^/(?:var/)?run/qemu-server/(\d+)\.swtpm$`)},
	{"incus", false, regexp.MustCompile(`^/var/lib/incus/devices/([^/]+)/swtpm-[^/]+\.sock$`)},
	{"incus", false, regexp.MustCompile(`^/var/lib/(?:lxd|snap/lxd/common/lxd)/devices/([^/]+)/swtpm-[^/]+\.sock$`)},
	{"vmspawn", true, regexp.MustCompile(`/systemd/vmspawn[./-]([^/]+)/tpm\.sock$`)},
	{"systemd", false, regexp.MustCompile(`^/(?:var/)?run/swtpm/([^/]+)/(?:ctrl|data)\.sock$`)},
}

// nameOf returns the facts that follow from the path of a control socket. The caller passes only
// paths that the kernel confirms.
func nameOf(socket, dir string) (n named, ok bool) {
	if socket == "" {
		return n, false
	}
	if !filepath.IsAbs(socket) {
		socket = filepath.Join(dir, socket)
	}
	for _, p := range paths {
		m := p.pattern.FindStringSubmatch(socket)
		switch {
		case m == nil:
		case p.manager == "systemd":
			return named{manager: "manual", name: m[1]}, true
		default:
			return named{p.manager, m[1], m[1], filepath.Dir(socket), p.user}, true
		}
	}
	// A script that starts QEMU by hand names the socket or its directory like the machine.
	base := filepath.Base(socket)
	for _, suffix := range []string{".swtpm-sock", "-swtpm.sock", ".swtpm", "-tpm.sock"} {
		if name, ok := strings.CutSuffix(base, suffix); ok && name != "" {
			return named{manager: "manual", name: name}, true
		}
	}
	return n, false
}

// ownsDirectory reports whether the directory of the socket belongs to root or to a system user,
// such as the user of a manager's service, and other users cannot create files in it. It looks up
// the directory in the mount namespace of p.
func (s *snapshot) ownsDirectory(p *process, n named) bool {
	var st unix.Statx_t
	const mask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_UID
	err := unix.Statx(unix.AT_FDCWD, s.of(p.pid, "root")+n.dir, unix.AT_STATX_DONT_SYNC, mask, &st)
	if errors.Is(err, unix.EACCES) && systemUser(p.uid) { // s.UID may not see it
		err = unix.Statx(unix.AT_FDCWD, n.dir, unix.AT_STATX_DONT_SYNC, mask, &st)
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o002 != 0 {
		return false
	}
	uid := int(st.Uid)
	return systemUser(uid) || uid == s.UID || n.user && uid == p.uid
}

// rank returns who can choose the name of a TPM: 0 if only root can, 1 if a manager that runs as a
// system user can, 2 if any user can.
func (t *TPM) rank() int {
	switch {
	case t.Unit != "" && !t.foreign, t.State == stateStopped && !t.halted(), t.Name == pidName(t.PID):
		return 0
	case t.Manager != "manual" && !t.foreign && t.system():
		return 1
	}
	return 2
}

// system reports whether the process runs as root or as a system user.
func (t *TPM) system() bool { return systemUser(t.UID) }

// systemUser reports whether a UID belongs to root or to a service, rather than to a person or
// a container.
//
// Source: systemd, Users, Groups, UIDs and GIDs on systemd Systems: 61184 to 65519 are
// dynamic users of services; Debian has its static ones there, such as libvirt-qemu.
func systemUser(uid int) bool {
	return uid >= 0 && uid < firstUser || uid >= 61184 && uid <= 65519
}

// distinguish makes names unique: of several TPMs with one name, the one of the lowest rank keeps
// it, and the others are named by their PIDs.
func distinguish(tpms []TPM) {
	all := make([]*TPM, len(tpms))
	for i := range tpms {
		all[i] = &tpms[i]
	}
	slices.SortStableFunc(all, func(a, b *TPM) int { return a.rank() - b.rank() })
	seen := map[string]bool{}
	for _, t := range all {
		if seen[t.Name] && t.PID != 0 {
			t.Name = pidName(t.PID)
		}
		for seen[t.Name] {
			t.Name += "_"
		}
		seen[t.Name] = true
	}
}

// pidName is the name of a TPM that nothing else names.
func pidName(pid int) string { return "pid " + strconv.Itoa(pid) }

// nameByGuest sets the virtual machine of each TPM from the QEMU that is connected to it. The kernel
// shows which process is at the other end of a connection, and the name is in QEMU's command line.
func (s *snapshot) nameByGuest(tpms []TPM, processes []*process) {
	byInode := map[uint64]*process{}
	for _, p := range processes {
		if !p.guest || !p.confirmed {
			continue
		}
		for inode := range p.fds {
			byInode[inode] = p
		}
	}
	if len(byInode) == 0 || s.Peers == nil {
		return
	}
	peer, err := s.Peers()
	if err != nil {
		return
	}
	server := map[uint64]uint64{} // of each inode that a guest has, by the inode of the TPM
	for guest, tpm := range peer {
		if byInode[guest] != nil {
			server[tpm] = guest
		}
	}
	byPID := map[int]*TPM{}
	for i := range tpms {
		byPID[tpms[i].PID] = &tpms[i]
	}
	for _, p := range processes {
		if t := byPID[p.pid]; t != nil && !p.guest && t.State != stateUnproved {
			nameByPeers(t, p, server, byInode)
		}
	}
}

// nameByPeers names the virtual machine of t, whose process is p.
func nameByPeers(t *TPM, p *process, server map[uint64]uint64, guests map[uint64]*process) {
	for inode := range p.fds {
		guest := guests[server[inode]]
		if guest == nil {
			continue
		}
		if name := guestName(guest.args); name != "" {
			t.VM = name
			return
		}
	}
}

// guestName returns the name of a virtual machine from QEMU's command line: -name
// guest=NAME,… or -name NAME,….
func guestName(args []string) string {
	for i, a := range args {
		if (a != "-name" && a != "--name") || i+1 == len(args) {
			continue
		}
		name := strings.ReplaceAll(args[i+1], ",,", "\x00") // a comma is written twice
		name, _, _ = strings.Cut(name, ",")
		return strings.ReplaceAll(strings.TrimPrefix(name, "guest="), "\x00", ",")
	}
	return ""
}
