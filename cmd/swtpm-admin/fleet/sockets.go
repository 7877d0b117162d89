package fleet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// table is what the kernel knows about the Unix sockets of a network namespace.
type table struct {
	listening map[uint64]string   // path by inode
	connected map[string][]uint64 // inodes by path of the server
}

// readTable parses /proc/PID/net/unix.
//
// Source: unix(7) and proc(5): Num RefCount Protocol Flags Type St Inode Path.
func readTable(text string) *table {
	const accepts, connectedState = "00010000", "03"
	t := &table{map[uint64]string{}, map[string][]uint64{}}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 8 {
			continue
		}
		inode, err := strconv.ParseUint(words[6], 10, 64)
		if err != nil {
			continue
		}
		// A path may contain spaces.
		path := strings.TrimSuffix(line[strings.Index(line, " "+words[6]+" ")+len(words[6])+2:], "\n")
		switch {
		case words[3] == accepts:
			t.listening[inode] = path
		case words[5] == connectedState:
			t.connected[path] = append(t.connected[path], inode)
		}
	}
	return t
}

// tables returns the sockets of two network namespaces: the namespace of a process, and the
// namespace of this program, in which systemd creates sockets.
func (s *snapshot) tables(p *process) []*table {
	own := s.table("self", "self")
	if p.netns == "" {
		return []*table{own}
	}
	return []*table{own, s.table(p.netns, strconv.Itoa(p.pid))}
}

// table returns the sockets of a namespace. It reads them once per collection.
func (s *snapshot) table(namespace, pid string) *table {
	s.mu.Lock()
	t, ok := s.sockets[namespace]
	s.mu.Unlock()
	if ok {
		return t
	}
	b, _ := readLimited(filepath.Join(s.Proc, pid, "net/unix"))
	t = readTable(string(b))
	s.mu.Lock()
	s.sockets[namespace] = t
	s.mu.Unlock()
	return t
}

// listens reports whether the kernel confirms that a process listens on a Unix socket with
// this path, as it was written.
func (s *snapshot) listens(p *process, path string) bool {
	for _, t := range s.tables(p) {
		for inode, bound := range t.listening {
			if (bound == path || bound == relativeTo(p.dir, path)) && p.fds[inode] {
				return true
			}
		}
	}
	return false
}

// clients returns the inodes of the connections of a process that came to a path.
func (s *snapshot) clients(p *process, path string) (inodes []uint64) {
	seen := map[uint64]bool{}
	for _, t := range s.tables(p) {
		for _, name := range []string{path, relativeTo(p.dir, path)} {
			for _, inode := range t.connected[name] {
				if (p.fds[inode] || p.fds == nil) && !seen[inode] {
					seen[inode] = true
					inodes = append(inodes, inode)
				}
			}
		}
	}
	return inodes
}

// relativeTo returns the path as a process in dir may have written it.
func relativeTo(dir, path string) string {
	if rel, ok := strings.CutPrefix(path, dir+"/"); ok && dir != "" {
		return rel
	}
	return path
}

// listening returns the paths of the Unix sockets on which a process listens.
func (s *snapshot) listening(p *process) (found []string) {
	for _, t := range s.tables(p) {
		for inode, path := range t.listening {
			if p.fds[inode] && path != "" && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	return found
}

// passedPath returns the path of a socket that systemd passes: the one of swtpm@.socket, or
// the only one on which the process listens; "" if it is unknown.
func passedPath(instance, name string, listening []string) string {
	usual := "/run/swtpm/" + instance + "/" + name + ".sock"
	switch {
	case len(listening) == 0, slices.Contains(listening, usual):
		return usual
	case len(listening) == 1:
		return listening[0]
	}
	return ""
}

// socketPaths returns the paths of the Unix sockets of a TPM, which listens on listening.
func socketPaths(cfg *config.Config, instance string, listening []string) (paths []string) {
	for i, e := range []config.Endpoint{cfg.Control.Listen, cfg.Interface.Server} {
		switch e.Kind {
		case config.Unix:
			paths = append(paths, e.Path)
		case config.Systemd:
			if path := passedPath(instance, []string{"ctrl", "data"}[i], listening); path != "" {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// peers asks the kernel for the peer of each connected Unix socket in the network namespace of this
// process.
//
// Source: sock_diag(7), UNIX sockets.
func peers() (map[uint64]uint64, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	wait := unix.NsecToTimeval(limit.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	const byFamily, established, showPeer = 20, 1 << 1, 4
	req := make([]byte, 16+24)
	le := binary.NativeEndian
	le.PutUint32(req, uint32(len(req)))
	le.PutUint16(req[4:], byFamily)
	le.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[16] = unix.AF_UNIX
	le.PutUint32(req[20:], established)
	le.PutUint32(req[28:], showPeer)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	found, buf := map[uint64]uint64{}, make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		if done := readPeers(buf[:n], found); done {
			return found, nil
		}
	}
}

// readPeers adds the sockets of netlink messages to found, and reports the end of the list.
func readPeers(b []byte, found map[uint64]uint64) (done bool) {
	le := binary.NativeEndian
	const header, message, attribute = 16, 16, 4
	for len(b) >= header {
		n, kind := int(le.Uint32(b)), le.Uint16(b[4:])
		if n < header || n > len(b) || kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR {
			return true
		}
		if n >= header+message {
			inode := uint64(le.Uint32(b[header+4:]))
			for a := b[header+message : n]; len(a) >= attribute; {
				size, kind := int(le.Uint16(a)), le.Uint16(a[2:])
				if size < attribute || size > len(a) {
					break
				}
				if kind == 2 && size >= attribute+4 { // UNIX_DIAG_PEER
					found[inode] = uint64(le.Uint32(a[attribute:]))
				}
				a = a[min(len(a), (size+3)&^3):]
			}
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return false
}
