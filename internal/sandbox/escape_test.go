//go:build cgo && !record

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// confined is what the child does behind Enter, by the first word of its action.
var confined = map[string]func(args []string) error{
	"escape": func(args []string) error {
		i, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return escape(args[0], escapes[i], args[2], args[3])
	},
	"without": func(args []string) error {
		a, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: args[0], Landlock: args[1]},
			State: config.State{URI: "dir://" + args[2]}}, ""))
		fmt.Println(a)
		return err
	},
	"bound": func(args []string) error {
		release := manyThreads()
		defer close(release)
		if err := Bound(); err != nil {
			return err
		}
		tasks, _ := filepath.Glob("/proc/self/task/*/status")
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			fmt.Println(regexp.MustCompile(`(?m)^CapBnd:.*`).FindString(string(b)))
		}
		_, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: "kill", Landlock: "best-effort"}, State: config.State{URI: "dir://" + args[0]}}, ""))
		return err
	},
	"later":   func(args []string) error { return later(args[0], args[1]) },
	"runtime": func(args []string) error { return confinedRuntime(args[0]) },
}

// cages are what a process is confined as.
var cages = map[string]func(cfg *config.Config) Policy{
	"emulator":         func(cfg *config.Config) Policy { return Plan(cfg, "") },
	"verb that reads":  func(cfg *config.Config) Policy { return AtRest(cfg, false, "") },
	"verb that writes": func(cfg *config.Config) Policy { return AtRest(cfg, true, "") },
	"verb that makes a file": func(cfg *config.Config) Policy {
		return AtRest(cfg, false, strings.TrimPrefix(cfg.State.URI, "dir://")+"/out/archive")
	},
}

// A wayOut is a way out of a confined process.
type wayOut struct {
	name string
	dies bool // the process ends with SIGSYS; else the call fails, by Landlock
	try  func(own, other string) error
}

// escapes are ways out of a confined process. Each runs on a thread that was there
// before Enter. It returns what the kernel says; most do not return.
var escapes = []wayOut{
	{"exec", true, func(string, string) error { return unix.Exec("/bin/true", []string{"true"}, nil) }},
	{"exec of a descriptor", true, func(string, string) error { return raw6(unix.SYS_EXECVEAT, 0, 0, 0, 0, 0) }},
	{"a socket", true, func(string, string) error { return raw6(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0, 0, 0) }},
	{"a connection", true, func(string, string) error { return raw6(unix.SYS_CONNECT, 0, 0, 0, 0, 0) }},
	{"ptrace", true, func(string, string) error {
		return raw6(unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(os.Getppid()), 0, 0, 0)
	}},
	{"memory of another process", true, func(string, string) error { return raw6(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid()), 0, 0, 0, 0) }},
	{"a signal to another process", true, func(string, string) error { return raw6(unix.SYS_KILL, uintptr(os.Getppid()), 0, 0, 0, 0) }},
	{"a signal to a thread of another process", true, func(string, string) error {
		return raw6(unix.SYS_TGKILL, uintptr(os.Getppid()), uintptr(os.Getppid()), 0, 0, 0)
	}},
	{"a process", true, func(string, string) error { return raw6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0) }},
	{"a user namespace", true, func(string, string) error { return raw6(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0, 0, 0) }},
	{"memory becomes code", true, func(string, string) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	}},
	{"memory that is code", true, func(string, string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	}},
	{"prctl", true, func(string, string) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }},
	{"another user", true, func(string, string) error { return raw6(unix.SYS_SETRESUID, 0, 0, 0, 0, 0) }},
	{"x32", true, func(string, string) error { return raw6(unix.SYS_GETPID|0x40000000, 0, 0, 0, 0, 0) }},
	{"io_uring", true, func(string, string) error { return raw6(unix.SYS_IO_URING_SETUP, 1, 0, 0, 0, 0) }},
	{"another TPM's state is read", false, func(_, other string) error { return opened(other+"/tpm2-00.permall", unix.O_RDONLY) }},
	{"another TPM's state is written", false, func(_, other string) error { return opened(other+"/tpm2-00.permall", unix.O_WRONLY) }},
	{"a file beside another TPM's state", false, func(_, other string) error { return opened(other+"/new", unix.O_WRONLY|unix.O_CREAT) }},
	{"another TPM's state goes", false, func(_, other string) error { return unix.Unlink(other + "/tpm2-00.permall") }},
	{"another TPM's state becomes ours", false, func(own, other string) error {
		return unix.Rename(other+"/tpm2-00.permall", own+"/mine")
	}},
	{"users", false, func(string, string) error { return opened("/etc/passwd", unix.O_RDONLY) }},
	{"a device", false, func(string, string) error { return opened("/dev/zero", unix.O_RDWR) }},
}

func raw6(number uintptr, a, b, c, d, e uintptr) error {
	if _, _, errno := unix.RawSyscall6(number, a, b, c, d, e, 0); errno != 0 {
		return errno
	}
	return nil
}

func opened(path string, flags int) error {
	_, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	return err
}

// escape confines this process in a cage with the state own, and tries e, on a thread
// from before.
func escape(cage string, e wayOut, own, other string) error {
	release := manyThreads()
	defer close(release)
	tries, result := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		tries <- struct{}{}
		<-tries
		result <- e.try(own, other)
	}()
	<-tries
	p := cages[cage](&config.Config{Sandbox: config.Sandbox{Seccomp: "kill", Landlock: "best-effort"}, State: config.State{URI: "dir://" + own}})
	a, err := Enter(p)
	if err != nil {
		return err
	}
	fmt.Println("confined:", a)
	if err := opened(own+"/state", unix.O_RDONLY); err != nil {
		return fmt.Errorf("its own state: %w", err)
	}
	err = opened(own+"/new", unix.O_RDWR|unix.O_CREAT)
	if writes := p.Rights&^readOthers != 0 && cage != "verb that makes a file"; writes && err != nil || !writes && err == nil && a.Landlock > 0 {
		return fmt.Errorf("its own state is written: %v", err)
	}
	close(tries)
	fmt.Println("the answer is:", <-result)
	return nil
}

// TestEscape holds that none of them works, from no cage.
func TestEscape(t *testing.T) {
	for cage := range cages {
		for i, e := range escapes {
			t.Run(cage+"/"+e.name, func(t *testing.T) { tryEscape(t, cage, i, e) })
		}
	}
}

func tryEscape(t *testing.T, cage string, i int, e wayOut) {
	own, other := t.TempDir(), t.TempDir()
	for _, file := range []string{own + "/state", other + "/tpm2-00.permall"} {
		if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(own+"/out", 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := child(t, fmt.Sprintf("escape:%s:%d:%s:%s", cage, i, own, other), nil)
	if !strings.Contains(out, "confined: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	if e.dies {
		if !strings.Contains(fmt.Sprint(err), "bad system call") {
			t.Errorf("%v, want the end by SIGSYS\n%s", err, out)
		}
		return
	}
	if strings.Contains(out, "no Landlock") {
		t.Skip("there is no Landlock here")
	}
	died := strings.Contains(fmt.Sprint(err), "bad system call")
	refused := strings.Contains(out, "the answer is: "+unix.EACCES.Error()) || strings.Contains(out, "the answer is: "+unix.EXDEV.Error())
	if !died && (err != nil || !refused) {
		t.Errorf("%v, want a refusal\n%s", err, out)
	}
	if b, err := os.ReadFile(other + "/tpm2-00.permall"); string(b) != "secret" {
		t.Errorf("the state of the other TPM: %q, %v", b, err)
	}
}

// confinedRuntime has the runtime work behind Enter: it makes threads, takes memory
// and gives it back. It fails if a thread that is new is not confined.
func confinedRuntime(own string) error {
	p := Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: "kill", Landlock: "best-effort"}, State: config.State{URI: "dir://" + own}}, "")
	a, err := Enter(p)
	if err != nil {
		return err
	}
	release := manyThreads()
	var keep [][]byte
	for range 64 {
		keep = append(keep, make([]byte, 4<<20))
		keep[len(keep)-1][0] = 1
	}
	runtime.KeepAlive(keep)
	keep = nil
	runtime.GC()
	close(release)
	return p.checkThreads(a)
}

// TestLater holds that what is beside the directory above a state which is not there
// yet is out of reach, and what is made there is not.
func TestLater(t *testing.T) {
	above, other := t.TempDir(), t.TempDir()
	if err := os.WriteFile(other+"/state", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := child(t, "later:"+above+":"+other, nil)
	if strings.Contains(out, "no Landlock") {
		t.Skip("there is no Landlock here")
	}
	if err != nil || !strings.Contains(out, `is not there yet, so that Landlock leaves within reach all of "`+above+`"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// later confines this process before its state is there.
func later(above, other string) error {
	a, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: "kill", Landlock: "best-effort"}, State: config.State{URI: "dir://" + above + "/a/state"}}, ""))
	fmt.Println(a, a.Missing)
	if err != nil {
		return err
	}
	if err := opened(above+"/made", unix.O_RDWR|unix.O_CREAT); err != nil {
		return err
	}
	if err := opened(other+"/state", unix.O_RDONLY); a.Landlock > 0 && err != unix.EACCES {
		return fmt.Errorf("another state is opened: %v", err)
	}
	return nil
}

// TestWithout holds that Enter works with one half of it, and with none.
func TestWithout(t *testing.T) {
	for _, what := range []string{"none:best-effort", "kill:off", "none:off", "log:best-effort"} {
		if out, err := child(t, "without:"+what+":"+t.TempDir(), nil); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	// A place that is not there yet: what is above it stays within reach.
	out, err := child(t, "without:none:best-effort:/no/such/state", nil)
	if err != nil || !strings.Contains(out, "no seccomp, Landlock ") && !strings.Contains(out, "no Landlock") {
		t.Errorf("a state that comes later: %v\n%s", err, out)
	}
	if out, err := child(t, "without:kill:require:/no/such/state", nil); err == nil || !strings.Contains(out, `"/no/such/state" is not there yet`) {
		t.Errorf("Landlock is required: %v\n%s", err, out)
	}
}

func TestConfinedRuntime(t *testing.T) {
	if out, err := child(t, "runtime:"+t.TempDir(), nil); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
