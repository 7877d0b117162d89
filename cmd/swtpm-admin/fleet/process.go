package fleet

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// firstUser is the first UID that is not a system user's.
const firstUser = 1000

// maxProcFile limits what is read of one file of proc.
const maxProcFile = 1 << 20

// process is one process that runs a TPM, or a QEMU.
type process struct {
	pid       int
	uid       int
	args      []string
	dir       string // its working directory; "" if unknown
	exe       string // path of its program without " (deleted)"; "" if the kernel does not show it
	deleted   bool   // the program's file was removed or replaced
	confirmed bool   // the kernel shows that it runs an installed program
	guest     bool   // it is a QEMU
	started   time.Time
	stopped   bool   // by a signal
	seccomp   string // "2" with a filter
	unit      string // of its cgroup; "" if it is not a service
	mapped    []mapping
	mapsErr   error
	fds       map[uint64]bool // inodes of its sockets; nil if unknown
	counter   string          // the descriptor whose offset is the number of commands; "" without
	netns     string
}

// processes returns the processes that are a TPM or a QEMU.
func (s *snapshot) processes(ctx context.Context) []*process {
	entries, _ := os.ReadDir(s.Proc)
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	found := make([]*process, len(pids))
	each(len(pids), func(i int) {
		p, err := ofProcess(ctx, s.Host, pids[i], func() *process { return s.process(pids[i]) })
		if err == nil {
			found[i] = p
		}
	})
	var all []*process
	for _, p := range found {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// process returns the process pid if it is a TPM or a QEMU, otherwise nil.
func (s *snapshot) process(pid int) *process {
	p := &process{pid: pid, uid: -1}
	exe, err := os.Readlink(s.of(pid, "exe"))
	p.exe, p.deleted = strings.CutSuffix(exe, " (deleted)")
	name := filepath.Base(p.exe)
	if err != nil {
		if !errors.Is(err, fs.ErrPermission) {
			return nil // a thread of the kernel, or the process has ended
		}
		name = strings.TrimSpace(string(s.read(pid, "comm")))
	}
	p.guest = strings.HasPrefix(name, "qemu-system-") || name == "qemu-kvm" || name == "kvm"
	if name != "swtpm" && !p.guest {
		return nil
	}
	s.status(p)
	if s.Own && p.uid != s.UID {
		return nil
	}
	p.confirmed = s.believes(p)
	if !p.confirmed {
		// Reading its command line may never end, because its memory may be a file of a
		// file system that does not answer.
		if p.guest {
			return nil
		}
		return p
	}
	p.args = strings.Split(strings.TrimSuffix(string(s.read(pid, "cmdline")), "\x00"), "\x00")
	if !p.guest && !runsTPM(p.args) {
		return nil
	}
	p.fds, p.counter = s.descriptors(pid)
	if p.guest {
		return p
	}
	p.dir, _ = os.Readlink(s.of(pid, "cwd"))
	p.netns, _ = os.Readlink(s.of(pid, "ns/net"))
	p.started, p.stopped = s.stat(pid)
	p.unit = unitOf(string(s.read(pid, "cgroup")))
	p.mapped, p.mapsErr = s.mappings(pid)
	return p
}

// of returns the path of a file in the directory of a process in proc.
func (s *snapshot) of(pid int, name string) string {
	return filepath.Join(s.Proc, strconv.Itoa(pid), name)
}

// read returns the content of a file of a process, empty if it cannot be read.
func (s *snapshot) read(pid int, name string) []byte {
	b, _ := readLimited(s.of(pid, name))
	return b
}

// believes reports whether the kernel confirms that a process runs an installed program: its file
// belongs to root, and no other user may write to it. If the caller may not see the program,
// believes returns true only for the caller's own processes, and for processes of system users,
// which no other user can start.
func (s *snapshot) believes(p *process) bool {
	if p.uid == s.UID && s.UID != 0 {
		return true
	}
	if p.exe == "" {
		return p.uid >= 0 && p.uid < firstUser
	}
	var st unix.Statx_t // without a request to a file system that may not answer
	if unix.Statx(unix.AT_FDCWD, s.of(p.pid, "exe"), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_MODE|unix.STATX_UID, &st) != nil {
		return false
	}
	return st.Uid == 0 && st.Mode&0o022 == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// runsTPM reports whether the arguments of swtpm start a TPM rather than run another verb.
func runsTPM(args []string) bool {
	if len(args) < 2 {
		return false
	}
	switch args[1] {
	case "run", "socket", "chardev", "cuse":
		return true
	}
	return false
}

// status sets the fields of p that are in /proc/PID/status.
func (s *snapshot) status(p *process) {
	for line := range bytes.Lines(s.read(p.pid, "status")) {
		key, value, _ := strings.Cut(string(line), ":")
		words := strings.Fields(value)
		if len(words) == 0 {
			continue
		}
		switch key {
		case "Uid":
			p.uid, _ = strconv.Atoi(words[0])
		case "Seccomp":
			p.seccomp = words[0]
		}
	}
}

// descriptors returns the inodes of the sockets that a process has open, nil if they cannot be
// listed. It leaves out the standard streams, which may be connected to the journal. counter is the
// descriptor whose offset counts the commands. It is "" if two descriptors have its name, because
// the process that started the TPM has then passed one of them.
func (s *snapshot) descriptors(pid int) (found map[uint64]bool, counter string) {
	dir := s.of(pid, "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ""
	}
	found = map[uint64]bool{}
	counters := 0
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if link == "/memfd:"+tpm.CommandsFile+" (deleted)" {
			counter = e.Name()
			counters++
		}
		rest, ok := strings.CutPrefix(link, "socket:[")
		if fd, _ := strconv.Atoi(e.Name()); err != nil || !ok || fd <= 2 {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64); err == nil {
			found[n] = true
		}
	}
	if counters > 1 {
		counter = ""
	}
	return found, counter
}

// commands returns the number of commands since the start of a TPM, nil if it is unknown.
//
// Source: proc_pid_fdinfo(5), pos.
func (s *snapshot) commands(p *process) *uint64 {
	if p.counter == "" {
		return nil
	}
	first, _, _ := bytes.Cut(s.read(p.pid, "fdinfo/"+p.counter), []byte("\n"))
	pos, ok := bytes.CutPrefix(first, []byte("pos:"))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(pos)), 10, 64)
	if !ok || err != nil {
		return nil
	}
	return &n
}

// ticks is the unit of times in /proc/PID/stat, per second: USER_HZ.
const ticks = 100

// stat returns when a process was started, and whether a signal has stopped it.
//
// Source: proc_pid_stat(5), fields 22 and 3.
func (s *snapshot) stat(pid int) (started time.Time, stopped bool) {
	stat := s.read(pid, "stat")
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	words := strings.Fields(string(rest))
	stopped = len(words) > 0 && words[0] == "T"
	const field = 22 - 3 // counted after the name
	if len(words) <= field || s.boot.IsZero() {
		return time.Time{}, stopped
	}
	n, err := strconv.ParseUint(words[field], 10, 63)
	if err != nil {
		return time.Time{}, stopped
	}
	return s.boot.Add(time.Duration(n) * (time.Second / ticks)), stopped
}

// bootTime returns when the host was booted, zero if proc does not show it. It prefers the uptime,
// because the time of the boot in proc has a precision of only a second.
func bootTime(proc string) time.Time {
	uptime, _ := readLimited(filepath.Join(proc, "uptime"))
	if words := strings.Fields(string(uptime)); len(words) > 0 {
		if n, err := strconv.ParseFloat(words[0], 64); err == nil {
			return time.Now().Add(-time.Duration(n * float64(time.Second)))
		}
	}
	b, _ := readLimited(filepath.Join(proc, "stat"))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err == nil {
				return time.Unix(n, 0)
			}
		}
	}
	return time.Time{}
}

// unitOf returns the service that a cgroup belongs to.
func unitOf(cgroup string) string {
	for part := range strings.SplitSeq(strings.TrimSpace(cgroup), "/") {
		if strings.HasPrefix(part, "swtpm") && strings.HasSuffix(part, ".service") {
			return part
		}
	}
	return ""
}

// configOf returns the configuration from the command line of a TPM, and the instance of a
// profile. It opens no file except the profile.
func configOf(p *process) (cfg *config.Config, instance string) {
	if p.args[1] != "run" {
		cfg, err := config.ClassicElsewhere(p.args[1], p.args[2:], func(string) string { return "" })
		if err != nil {
			return nil, ""
		}
		return cfg.Absolute(p.dir), ""
	}
	name, given := "", ""
	for i := 2; i < len(p.args); i++ {
		switch a := p.args[i]; {
		case a == "--instance" && i+1 < len(p.args):
			i++
			given = p.args[i]
		case strings.HasPrefix(a, "--instance="):
			given = strings.TrimPrefix(a, "--instance=")
		case !strings.HasPrefix(a, "-"):
			name = a
		}
	}
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		name = filepath.Join(p.dir, name)
	}
	return profileOf(name, given)
}

// profileOf loads the profile with a name; the instance is known even if it has an error.
func profileOf(name, given string) (cfg *config.Config, instance string) {
	file, instance, err := config.FindProfile(name)
	if given != "" {
		instance = given
	}
	if err != nil {
		return nil, instance
	}
	cfg, err = config.LoadProfile(file, instance)
	if err != nil {
		return nil, instance
	}
	return cfg, instance
}
