//go:build cgo && !record

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// confined contains the actions of the child process that call Enter, by their first word.
var confined = map[string]func(args []string) error{
	"escape": func(args []string) error {
		i, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return escape(args[0], escapes[i], args[2], args[3])
	},
	"without": func(args []string) error {
		a, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompAction(args[0]), Landlock: config.LandlockMode(args[1])},
			State: config.State{Location: nv.Location{Kind: nv.Directory, Path: args[2]}}}, ""))
		fmt.Println(a)
		return err
	},
	"bound": func(args []string) error {
		release := manyThreads()
		defer close(release)
		_, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: args[0]}}}, ""))
		tasks, _ := filepath.Glob("/proc/self/task/*/status")
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			fmt.Println(regexp.MustCompile(`(?m)^CapBnd:.*`).FindString(string(b)))
		}
		return err
	},
	"lacking": func(args []string) error { return lacking(args[0]) },
	"refused": func(args []string) error { return refusedByService(args) },
	"remove": func(args []string) error {
		cfg := &config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: args[0]}}}
		cfg.Control.Listen = config.Endpoint{Kind: config.Unix, Path: args[1] + "/ctrl"}
		a, err := Enter(Plan(cfg, ""))
		if err != nil {
			return err
		}
		fmt.Println(a, a.Unremoved)
		fmt.Println("own:", unix.Unlink(args[1]+"/ctrl"))
		fmt.Println("other process:", unix.Unlink(args[1]+"/other.pid"))
		return nil
	},
	"later":   func(args []string) error { return later(args[0], args[1]) },
	"runtime": func(args []string) error { return confinedRuntime(args[0]) },
}

// planners make the policies that confine the process.
var planners = map[string]func(cfg *config.Config) Policy{
	"emulator":         func(cfg *config.Config) Policy { return Plan(cfg, "") },
	"verb that reads":  func(cfg *config.Config) Policy { return PlanOffline(cfg, false, "") },
	"verb that writes": func(cfg *config.Config) Policy { return PlanOffline(cfg, true, "") },
	"verb that makes a file": func(cfg *config.Config) Policy {
		return PlanOffline(cfg, false, cfg.State.Location.Path+"/out/archive")
	},
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

// escape confines this process with a policy for the state own, and tries e on a thread that
// existed before.
func escape(planner string, e escapeTest, own, other string) error {
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
	p := planners[planner](&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: own}}})
	a, err := Enter(p)
	if err != nil {
		return err
	}
	fmt.Println("confined:", a)
	if err := opened(own+"/state", unix.O_RDONLY); err != nil {
		return fmt.Errorf("own state: %w", err)
	}
	err = opened(own+"/new", unix.O_RDWR|unix.O_CREAT)
	if writes := p.Rights&^readOthers != 0 && planner != "verb that makes a file"; writes && err != nil || !writes && err == nil && a.Landlock > 0 {
		return fmt.Errorf("own state: writing returned %v", err)
	}
	close(tries)
	fmt.Println("result:", <-result)
	return nil
}

// TestEscape checks that no escape works under any policy.
func TestEscape(t *testing.T) {
	for planner := range planners {
		for i, e := range escapes {
			t.Run(planner+"/"+e.name, func(t *testing.T) { tryEscape(t, planner, i, e) })
		}
	}
}

func tryEscape(t *testing.T, planner string, i int, e escapeTest) {
	own, other := t.TempDir(), t.TempDir()
	for _, file := range []string{own + "/state", other + "/tpm2-00.permall"} {
		if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(own+"/out", 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := child(t, fmt.Sprintf("escape:%s:%d:%s:%s", planner, i, own, other), nil)
	if !strings.Contains(out, "confined: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	died := strings.Contains(fmt.Sprint(err), "bad system call")
	switch {
	case e.end == dies && !died:
		t.Errorf("%v, want death by SIGSYS\n%s", err, out)
	case e.end == fails && (err != nil || !strings.Contains(out, "result: "+e.errno.Error())):
		t.Errorf("%v, want %q\n%s", err, e.errno, out)
	}
	if fi, err := os.Stat(own + "/state"); err != nil || fi.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0 {
		t.Errorf("the mode of the state: %v, %v", fi.Mode(), err)
	}
	if e.end != isOutOfReach {
		return
	}
	if strings.Contains(out, "no Landlock") {
		t.Skip("no Landlock in this kernel")
	}
	refused := slices.ContainsFunc([]unix.Errno{unix.EACCES, unix.EXDEV, unix.ENOSYS}, func(errno unix.Errno) bool {
		return strings.Contains(out, "result: "+errno.Error())
	})
	if err != nil || !refused {
		t.Errorf("%v, want an error\n%s", err, out)
	}
	if b, err := os.ReadFile(other + "/tpm2-00.permall"); string(b) != "secret" {
		t.Errorf("the state of the other TPM: %q, %v", b, err)
	}
}

// confinedRuntime exercises the Go runtime after Enter: threads, memory, the garbage collector.
// It returns an error if a new thread is not confined.
func confinedRuntime(own string) error {
	p := Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: own}}}, "")
	a, err := Enter(p)
	if err != nil {
		return err
	}
	release := manyThreads()
	var blocks [][]byte
	for range 64 {
		blocks = append(blocks, make([]byte, 4<<20))
		blocks[len(blocks)-1][0] = 1
	}
	runtime.KeepAlive(blocks)
	blocks = nil
	runtime.GC()
	close(release)
	return p.checkThreads(a)
}

// TestAbsent checks a state directory that does not exist yet: files can be created in its
// parent, and other directories are not accessible.
func TestAbsent(t *testing.T) {
	above, other := t.TempDir(), t.TempDir()
	if err := os.WriteFile(other+"/state", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := child(t, "later:"+above+":"+other, nil)
	if strings.Contains(out, "no Landlock") {
		t.Skip("no Landlock in this kernel")
	}
	if err != nil || !strings.Contains(out, `does not exist yet, so that Landlock leaves all of "`+above+`" accessible`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// later confines this process before its state exists.
func later(above, other string) error {
	a, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: above + "/a/state"}}}, ""))
	fmt.Println(a, a.Missing)
	if err != nil {
		return err
	}
	if err := opened(above+"/made", unix.O_RDWR|unix.O_CREAT); err != nil {
		return err
	}
	if err := opened(other+"/state", unix.O_RDONLY); a.Landlock > 0 && err != unix.EACCES {
		return fmt.Errorf("opening another state returned %v", err)
	}
	return nil
}

// TestWithout checks Enter without seccomp, without Landlock, and without both.
func TestWithout(t *testing.T) {
	for _, what := range []string{"none:best-effort", "kill:off", "none:off", "log:best-effort"} {
		if out, err := child(t, "without:"+what+":"+t.TempDir(), nil); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	// A state directory that does not exist yet: its parent is accessible.
	out, err := child(t, "without:none:best-effort:/no/such/state", nil)
	if err != nil || !strings.Contains(out, "no seccomp, Landlock ") && !strings.Contains(out, "no Landlock") {
		t.Errorf("a state directory that does not exist: %v\n%s", err, out)
	}
	if out, err := child(t, "without:kill:require:/no/such/state", nil); err == nil || !strings.Contains(out, `"/no/such/state" does not exist yet`) {
		t.Errorf("Landlock required: %v\n%s", err, out)
	}
}

// TestConfinedRuntime checks that the Go runtime works in the sandbox.
func TestConfinedRuntime(t *testing.T) {
	if out, err := child(t, "runtime:"+t.TempDir(), nil); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRemove checks that a process may remove its socket only from a directory without files
// of other processes.
func TestRemove(t *testing.T) {
	for _, c := range []struct {
		name  string
		other bool
	}{{"own directory", false}, {"shared directory", true}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			files := []string{dir + "/ctrl"}
			if c.other {
				files = append(files, dir+"/other.pid")
			}
			for _, file := range files {
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := child(t, "remove:"+t.TempDir()+":"+dir, nil)
			if strings.Contains(out, "no Landlock") {
				t.Skip("no Landlock in this kernel")
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if unremoved := strings.Contains(out, "["+dir+"/ctrl]"); unremoved != c.other {
				t.Errorf("the socket is not removed: %v, want %v\n%s", unremoved, c.other, out)
			}
			for _, file := range files {
				if _, err := os.Stat(file); (err == nil) != c.other {
					t.Errorf("%s exists: %v, want %v\n%s", file, err == nil, c.other, out)
				}
			}
		})
	}
}
