package doctor

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// processName describes a process, such as "process 12 (swtpm)". A pid of 0 or less is unknown.
func (x *examination) processName(pid int) string {
	switch {
	case pid <= 0 && os.Geteuid() != 0:
		return "a process that only root can identify"
	case pid <= 0:
		return "an unknown process, perhaps in another container or on another host"
	}
	name, _ := os.ReadFile(filepath.Join(x.root, "/proc", strconv.Itoa(pid), "comm"))
	if s := strings.TrimSpace(string(name)); s != "" {
		return fmt.Sprintf("process %d (%s)", pid, s)
	}
	return fmt.Sprintf("process %d", pid)
}

// holder describes the process with an open descriptor for target, in the form of /proc:
// "socket:[123]" or a path. Only root can identify processes of other users.
func (x *examination) holder(target string) string {
	links, _ := filepath.Glob(filepath.Join(x.root, "/proc/[0-9]*/fd/*"))
	var pids []int
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == target {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link))))
			if pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) == 0 {
		return x.processName(0)
	}
	return x.processName(slices.Min(pids)) // the others have inherited it
}

// listenerAt describes the process that listens on the Unix socket at path.
func (x *examination) listenerAt(path string) string {
	list, _ := os.ReadFile(filepath.Join(x.root, "/proc/net/unix"))
	return x.listener(unixInode(string(list), path))
}

// listenerOn describes the process that listens on a TCP port at addr, or at all addresses.
func (x *examination) listenerOn(addr netip.Addr, port uint16) string {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		list, _ := os.ReadFile(filepath.Join(x.root, file))
		if inode := tcpInode(string(list), addr, port); inode != 0 {
			return x.listener(inode)
		}
	}
	return x.processName(0)
}

func (x *examination) listener(inode uint64) string {
	if inode == 0 {
		return x.processName(0)
	}
	return x.holder(fmt.Sprintf("socket:[%d]", inode))
}

// unixInode returns the inode of the socket that listens at path, 0 if list, a
// /proc/net/unix, has none.
//
//	Num       RefCount Protocol Flags    Type St Inode Path
//	00000000f: 00000002 00000000 00010000 0001 01 12345 /run/x.sock
//
// Flag 0x10000 is __SO_ACCEPTCON. The path is the bound path, which may be relative.
//
// Source: proc_pid_net(5); Linux, net/unix/af_unix.c.
func unixInode(list, path string) uint64 {
	const listens = 0x10000
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		flags, err1 := strconv.ParseUint(f[3], 16, 64)
		inode, err2 := strconv.ParseUint(f[6], 10, 64)
		_, name, _ := strings.Cut(line, " "+f[6]+" ")
		if err1 == nil && err2 == nil && flags&listens != 0 && strings.TrimSuffix(name, "\n") == path {
			return inode
		}
	}
	return 0
}

// tcpInode returns the inode of the socket that listens on port at addr or at all
// addresses, 0 if list, a /proc/net/tcp or tcp6, has none.
//
//	sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
//	0: 0100007F:0911 00000000:0000 0A 0:0 0:0 0 0 0 12345 …
//
// State 0A is LISTEN. An address is 32-bit words in the machine's byte order.
//
// Source: proc_pid_net(5).
func tcpInode(list string, addr netip.Addr, port uint16) uint64 {
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" {
			continue
		}
		host, p, ok := strings.Cut(f[1], ":")
		if !ok || p != fmt.Sprintf("%04X", port) {
			continue
		}
		at, ok := procAddr(host)
		if !ok || at.Unmap() != addr.Unmap() && !at.IsUnspecified() && !addr.IsUnspecified() {
			continue
		}
		if inode, err := strconv.ParseUint(f[9], 10, 64); err == nil {
			return inode
		}
	}
	return 0
}

// procAddr decodes an address of /proc/net/tcp of a little-endian machine.
func procAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	return netip.AddrFromSlice(b)
}
