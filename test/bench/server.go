package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	state   string   // more suboptions of --tpmstate
	args    []string // more options
	env     []string
	user    bool   // run it as an ordinary user
	store   bool   // keep the state in the cluster store, with the name of the directory
	profile string // run this profile in place of a command line
}

// ordinary is the user and the group of a kind that is not run by root.
const ordinary = 65534

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

// stateFile is the name of the state of a TPM 2.0.
const stateFile = "tpm2-00.permall"

// newDir makes a directory for a state; a copy of seed is put there unless seed
// is empty. The copy is on disk then, as an old state is: otherwise a TPM that syncs what
// it loads would write it for us.
func (b *bench) newDir(seed string) (string, error) {
	b.dirs++
	dir := filepath.Join(b.dir, strconv.Itoa(b.dirs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if seed == "" {
		return dir, nil
	}
	blob, err := os.ReadFile(filepath.Join(seed, stateFile))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, stateFile)
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

// existing returns a directory with a state that the reference made with the options of k,
// the same each time.
func (b *bench) existing(k kind) (string, error) {
	key := strings.Join(k.args, " ")
	if b.seeds[key] == "" {
		dir, err := b.newDir("")
		if err != nil {
			return "", err
		}
		s, err := b.launch(kind{name: "ref", program: b.ref, args: k.args}, dir)
		if err != nil {
			return "", err
		}
		b.stop(s)
		b.seeds[key] = dir
	}
	dir, err := b.newDir(b.seeds[key])
	if err == nil && k.user {
		err = errors.Join(os.Chown(dir, ordinary, ordinary), os.Chown(filepath.Join(dir, stateFile), ordinary, ordinary))
	}
	return dir, err
}

// begin starts a TPM in dir.
func (b *bench) begin(k kind, dir string) (s *server, start time.Time, err error) {
	s = &server{kind: k, dir: dir, data: -1, ctrl: -1}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, start, err
	}
	defer unix.Close(null)
	attr := &syscall.ProcAttr{
		Dir:   dir, // the names of sockets must be short
		Env:   slices.Concat(os.Environ(), k.env),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null)},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	if k.user {
		attr.Sys.Credential = &syscall.Credential{Uid: ordinary, Gid: ordinary}
	}
	argv := k.argv()
	if k.profile != "" {
		if err := os.WriteFile(filepath.Join(dir, "vm.toml"), []byte(k.profile), 0o600); err != nil {
			return nil, start, err
		}
		argv = []string{k.program, "run", "vm.toml"}
	}
	if k.store {
		argv = slices.Replace(argv, 4, 5, "backend-uri=store://bench-"+filepath.Base(dir)+",allow-plain")
	}
	start = time.Now()
	if s.pid, err = syscall.ForkExec(k.program, argv, attr); err != nil {
		return nil, start, fmt.Errorf("start %q: %w", k.program, err)
	}
	b.running = append(b.running, s)
	return s, start, nil
}

// argv returns the command line of a TPM in the current directory.
func (k kind) argv() []string {
	return append([]string{k.program, "socket", "--tpm2", "--tpmstate", "dir=." + k.state,
		"--server", "type=unixio,path=d", "--ctrl", "type=unixio,path=c", "--flags", "not-need-init,startup-clear"}, k.args...)
}

// launch starts a TPM in dir and returns when it has answered a command.
func (b *bench) launch(k kind, dir string) (*server, error) {
	s, start, err := b.begin(k, dir)
	if err != nil {
		return nil, err
	}
	return s, s.ready(start)
}

// ready waits for the answer to the first command and connects the control channel.
func (s *server) ready(start time.Time) (err error) {
	if s.data, err = s.connect("d", start); err != nil {
		return err
	}
	if _, err := measure(s.data, random, 1, 0); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.first = time.Since(start)
	if s.faults, err = faults(s.pid); err != nil {
		return err
	}
	if s.cpu, err = cpu(s.pid); err != nil {
		return err
	}
	s.ctrl, err = s.connect("c", time.Now())
	return err
}

// connect connects to the socket name in the server's directory, as soon as it exists.
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
		if time.Since(start) > startWait || ended(s.pid) {
			unix.Close(fd)
			return -1, fmt.Errorf("%s: connect to %q: %w; does %q start?", s.name, path, err, s.program)
		}
		sleep(retry)
	}
}

// ended reports whether the child has ended. It does not reap the child.
func ended(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || info.Signo != 0
}

// stop ends a server and waits for it.
func (b *bench) stop(s *server) {
	b.running = slices.DeleteFunc(b.running, func(r *server) bool { return r == s })
	unix.Kill(s.pid, unix.SIGTERM)
	for end := time.Now().Add(stopWait); !ended(s.pid) && time.Now().Before(end); {
		sleep(time.Millisecond)
	}
	unix.Kill(s.pid, unix.SIGKILL)
	var ws unix.WaitStatus
	unix.Wait4(s.pid, &ws, 0, nil)
	for _, fd := range []int{s.data, s.ctrl} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (b *bench) stopAll() {
	for len(b.running) > 0 {
		b.stop(b.running[0])
	}
}

// bind puts all threads of process pid on one processor. Later threads start on
// the processor of the thread that makes them.
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

// inTurn keeps the threads of a process from interrupting others when they wake up; pid 0 stands for this
// thread alone. Otherwise the scheduler decides whether a client on the same processor has the
// response before or after the server waits again. Its choice depends on what both have run before, and is a fifth
// of the time of a short command.
func inTurn(pid int) error {
	fifo := unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1}
	if pid == 0 {
		return unix.SchedSetAttr(0, &fifo, 0)
	}
	return onTasks(pid, func(task string) error {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err == nil {
			err = unix.SchedSetAttr(tid, &fifo, 0)
		}
		return err
	})
}

// takeTurns calls inTurn for the client's thread and all servers. end undoes it for the client. An ordinary user
// may not do that: then the report says that the ratios are random.
func (b *bench) takeTurns(servers []*server) (end func(), err error) {
	pids := []int{0}
	for _, s := range servers {
		pids = append(pids, s.pid)
	}
	for _, pid := range pids {
		if err := inTurn(pid); errors.Is(err, fs.ErrPermission) {
			b.report.note("the ratios of rows with \"one CPU\" are random within 20 %%, because only root may set the scheduling policy")
			break
		} else if err != nil {
			return nil, err
		}
	}
	return func() { _ = unix.SchedSetAttr(0, &unix.SchedAttr{}, 0) }, nil
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
