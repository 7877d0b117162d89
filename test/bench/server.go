package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startWait = 20 * time.Second      // for the first response
	stopWait  = 10 * time.Second      // for the end after SIGTERM
	retry     = 20 * time.Microsecond // between two tries to connect
)

// kind is one of the programs, in one way to run it.
type kind struct {
	name    string
	program string
	state   string // more suboptions of --tpmstate
}

func (b *bench) kinds() (ref, ours kind) {
	return kind{name: "ref", program: b.ref}, kind{name: "ours", program: b.ours}
}

// server is a running TPM with a connected client.
type server struct {
	kind
	pid        int
	dir        string
	data, ctrl int           // sockets
	first      time.Duration // from before exec to the first response
	faults     int           // page faults until then
	cpu        time.Duration // processor time until then
}

// newDir makes a directory for a state; a copy of seed is put there unless seed
// is empty. The copy is on disk then, as a state is that was there before: else the
// TPM that syncs what it loads would write it for us.
func (b *bench) newDir(seed string) (string, error) {
	b.dirs++
	dir := filepath.Join(b.dir, strconv.Itoa(b.dirs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if seed == "" {
		return dir, nil
	}
	const name = "tpm2-00.permall"
	blob, err := os.ReadFile(filepath.Join(seed, name))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, blob, 0o600); err != nil {
		return "", err
	}
	for _, p := range []string{path, dir, b.dir} {
		if err := sync(p); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// sync waits until a file or directory is on disk.
func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// existing returns a directory with a state that the reference made, the same
// each time.
func (b *bench) existing() (string, error) {
	if b.seed == "" {
		dir, err := b.newDir("")
		if err != nil {
			return "", err
		}
		ref, _ := b.kinds()
		s, err := b.launch(ref, dir)
		if err != nil {
			return "", err
		}
		b.stop(s)
		b.seed = dir
	}
	return b.newDir(b.seed)
}

// launch starts a TPM in dir and returns when it has answered a command.
func (b *bench) launch(k kind, dir string) (*server, error) {
	s := &server{kind: k, dir: dir, data: -1, ctrl: -1}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	argv := []string{k.program, "socket", "--tpm2", "--tpmstate", "dir=." + k.state,
		"--server", "type=unixio,path=d", "--ctrl", "type=unixio,path=c", "--flags", "not-need-init,startup-clear"}
	attr := &syscall.ProcAttr{
		Dir:   dir, // the names of sockets must be short
		Env:   os.Environ(),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null)},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	start := time.Now()
	if s.pid, err = syscall.ForkExec(k.program, argv, attr); err != nil {
		return nil, fmt.Errorf("start %q: %w", k.program, err)
	}
	b.running = append(b.running, s)
	if s.data, err = s.connect("d", start); err != nil {
		return nil, err
	}
	if _, err := measure(s.data, random, 1, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", k.name, err)
	}
	s.first = time.Since(start)
	if s.faults, err = faults(s.pid); err != nil {
		return nil, err
	}
	if s.cpu, err = cpu(s.pid); err != nil {
		return nil, err
	}
	s.ctrl, err = s.connect("c", time.Now())
	return s, err
}

// connect connects to the socket name in the server's directory, as soon as it
// is there.
func (s *server) connect(name string, start time.Time) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	path := filepath.Join(s.dir, name)
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err == nil {
			return fd, nil
		}
		if time.Since(start) > startWait || gone(s.pid) {
			unix.Close(fd)
			return -1, fmt.Errorf("%s: connect to %q: %w; does %q start?", s.name, path, err, s.program)
		}
		sleep(retry)
	}
}

// gone says whether the child has ended; it is left to be waited for.
func gone(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || info.Signo != 0
}

// stop ends a server and waits for it.
func (b *bench) stop(s *server) {
	b.running = slices.DeleteFunc(b.running, func(r *server) bool { return r == s })
	for _, fd := range []int{s.data, s.ctrl} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	unix.Kill(s.pid, unix.SIGTERM)
	for end := time.Now().Add(stopWait); !gone(s.pid) && time.Now().Before(end); {
		sleep(time.Millisecond)
	}
	unix.Kill(s.pid, unix.SIGKILL)
	var ws unix.WaitStatus
	unix.Wait4(s.pid, &ws, 0, nil)
}

func (b *bench) stopAll() {
	for len(b.running) > 0 {
		b.stop(b.running[0])
	}
}

// bind puts all threads of process pid on one processor. Later threads start on
// that of the thread that makes them.
func bind(pid, processor int) error {
	var set unix.CPUSet
	set.Set(processor)
	return onTasks(pid, func(task string) error {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err == nil {
			err = unix.SchedSetaffinity(tid, &set)
		}
		return err
	})
}

// processors returns those that we may run on.
func processors() (list []int, all unix.CPUSet, err error) {
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, all, err
	}
	for i := range 64 * len(all) {
		if all.IsSet(i) {
			list = append(list, i)
		}
	}
	return list, all, nil
}

// fileSystem names the type of the file system of dir.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fs.ErrInvalid.Error()
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs, where a sync costs nothing", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("number %#x", st.Type)
}
