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
		fmt.Println(a, a.Stays)
		fmt.Println("ours:", unix.Unlink(args[1]+"/ctrl"))
		fmt.Println("theirs:", unix.Unlink(args[1]+"/other.pid"))
		return nil
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
		return AtRest(cfg, false, cfg.State.Location.Path+"/out/archive")
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
	p := cages[cage](&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: own}}})
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

// TestEscape checks that none of them works, from no cage.
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
	died := strings.Contains(fmt.Sprint(err), "bad system call")
	switch {
	case e.end == dies && !died:
		t.Errorf("%v, want the end by SIGSYS\n%s", err, out)
	case e.end == fails && (err != nil || !strings.Contains(out, "the answer is: "+e.errno.Error())):
		t.Errorf("%v, want %q\n%s", err, e.errno, out)
	}
	if fi, err := os.Stat(own + "/state"); err != nil || fi.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0 {
		t.Errorf("the mode of the state: %v, %v", fi.Mode(), err)
	}
	if e.end != isOutOfReach {
		return
	}
	if strings.Contains(out, "no Landlock") {
		t.Skip("there is no Landlock here")
	}
	refused := slices.ContainsFunc([]unix.Errno{unix.EACCES, unix.EXDEV, unix.ENOSYS}, func(errno unix.Errno) bool {
		return strings.Contains(out, "the answer is: "+errno.Error())
	})
	if err != nil || !refused {
		t.Errorf("%v, want a refusal\n%s", err, out)
	}
	if b, err := os.ReadFile(other + "/tpm2-00.permall"); string(b) != "secret" {
		t.Errorf("the state of the other TPM: %q, %v", b, err)
	}
}

// confinedRuntime has the runtime work behind Enter: it makes threads, takes memory
// and gives it back. It fails if a thread that is new is not confined.
func confinedRuntime(own string) error {
	p := Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: own}}}, "")
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
	if err != nil || !strings.Contains(out, `does not exist yet, so that Landlock leaves all of "`+above+`" accessible`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// later confines this process before its state is there.
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
	if out, err := child(t, "without:kill:require:/no/such/state", nil); err == nil || !strings.Contains(out, `"/no/such/state" does not exist yet`) {
		t.Errorf("Landlock is required: %v\n%s", err, out)
	}
}

func TestConfinedRuntime(t *testing.T) {
	if out, err := child(t, "runtime:"+t.TempDir(), nil); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRemove checks that a process may remove its socket where no other process has
// files, and nothing where one has.
func TestRemove(t *testing.T) {
	for _, c := range []struct {
		name  string
		other bool
	}{{"alone", false}, {"with others", true}} {
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
				t.Skip("there is no Landlock here")
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if stays := strings.Contains(out, "["+dir+"/ctrl]"); stays != c.other {
				t.Errorf("the socket stays: %v, want %v\n%s", stays, c.other, out)
			}
			for _, file := range files {
				if _, err := os.Stat(file); (err == nil) != c.other {
					t.Errorf("%s is there: %v, want %v\n%s", file, err == nil, c.other, out)
				}
			}
		})
	}
}
