package fleet

import (
	"path/filepath"
	"regexp"
	"strings"
)

// named is what a path says about a TPM.
type named struct{ manager, name, vm string }

// paths are where programs put the control sockets of their TPMs. The first group of a
// pattern is the name.
//
// Source: libvirt, src/qemu/qemu_tpm.c; Incus, internal/server/device/tpm.go; Proxmox,
// PVE/QemuServer.pm; systemd, src/vmspawn/vmspawn.c.
var paths = []struct {
	manager string
	pattern *regexp.Regexp
}{
	{"libvirt", regexp.MustCompile(`^/(?:var/)?run/libvirt/qemu/swtpm/\d+-(.+)-swtpm\.sock$`)},
	{"libvirt", regexp.MustCompile(`/libvirt/qemu/run/swtpm/\d+-(.+)-swtpm\.sock$`)},
	{"proxmox", regexp.MustCompile(`^/(?:var/)?run/qemu-server/(\d+)\.swtpm$`)},
	{"incus", regexp.MustCompile(`^/var/lib/incus/devices/([^/]+)/swtpm-[^/]+\.sock$`)},
	{"incus", regexp.MustCompile(`^/var/lib/(?:lxd|snap/lxd/common/lxd)/devices/([^/]+)/swtpm-[^/]+\.sock$`)},
	{"vmspawn", regexp.MustCompile(`/systemd/vmspawn[./-]([^/]+)/tpm\.sock$`)},
	{"systemd", regexp.MustCompile(`^/(?:var/)?run/swtpm/([^/]+)/(?:ctrl|data)\.sock$`)},
}

// nameOf returns what the path of a control socket says. Only a path that the kernel
// confirms is to be passed.
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
			return named{"manual", m[1], ""}, true
		default:
			return named{p.manager, m[1], m[1]}, true
		}
	}
	// A script that starts QEMU by hand names the socket or its directory like the machine.
	base := filepath.Base(socket)
	for _, suffix := range []string{".swtpm-sock", "-swtpm.sock", ".swtpm", "-tpm.sock"} {
		if name, ok := strings.CutSuffix(base, suffix); ok && name != "" {
			return named{"manual", name, ""}, true
		}
	}
	return n, false
}

// nameByGuest names the virtual machine of each TPM by the QEMU that is connected to it.
// The kernel says which process is at the other end of a connection; the name is in QEMU's
// command line.
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
		if t := byPID[p.pid]; t != nil && !p.guest && t.State != Unproved {
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
