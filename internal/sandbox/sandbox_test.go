package sandbox

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// childVar makes the test binary the process that is confined. Its value is the action:
// "drop:USER", "harden" or a key of confined. The process prints the result.
const childVar = "SANDBOX_TEST_CHILD"

func TestMain(m *testing.M) {
	action, ok := os.LookupEnv(childVar)
	if !ok {
		os.Exit(m.Run())
	}
	var err error
	switch name, drop := strings.CutPrefix(action, "drop:"); {
	case confined[strings.SplitN(action, ":", 2)[0]] != nil:
		words := strings.Split(action, ":")
		err = confined[words[0]](words[1:])
	case drop:
		release := manyThreads()
		err = Drop(name)
		printThreads()
		close(release)
	default:
		err = Harden()
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		var core unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_CORE, &core)
		fmt.Printf("dumpable %d core %d %d\n", dumpable, core.Cur, core.Max)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// manyThreads starts threads that run until release is closed, so that a test finds a change
// that affects only one thread.
func manyThreads() (release chan struct{}) {
	release = make(chan struct{})
	up := make(chan struct{})
	for range 6 {
		go func() {
			runtime.LockOSThread()
			up <- struct{}{}
			<-release
		}()
		<-up
	}
	return release
}

// printThreads prints the Uid, Gid and Groups lines of each thread.
func printThreads() {
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		fmt.Println(strings.Join(regexp.MustCompile(`(?m)^(Uid|Gid|Groups):.*`).FindAllString(string(b), -1), " "))
	}
}

// child runs the test binary as the process that is confined.
func child(t *testing.T, action string, cred *syscall.Credential) (out string, err error) {
	t.Helper()
	cmd := harness.Child(t, childVar)
	cmd.Dir = "/"
	cmd.Env = append(cmd.Env, childVar+"="+action)
	if cred != nil {
		cmd.Path = copyFile(t, cmd.Path) // the user may have no access to the build directory
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	}
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// copyFile copies the program at path to a directory where every user can execute it.
func copyFile(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "child")
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root can change to another user")
	}
}

// wantThreads fails unless out has at least six lines, all of them equal to line.
func wantThreads(t *testing.T, out, line string) {
	t.Helper()
	n := 0
	for l := range strings.Lines(out) {
		if got := strings.Join(strings.Fields(l), " "); got != line {
			t.Errorf("thread has %q, want %q", got, line)
		}
		n++
	}
	if n < 6 {
		t.Errorf("%d threads, want at least 6:\n%s", n, out)
	}
}

// TestDropToName checks that all threads get the user, its group and its supplementary groups.
func TestDropToName(t *testing.T) {
	needRoot(t)
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("no user nobody on this host:", err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child(t, "drop:nobody", nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantThreads(t, out, fmt.Sprintf("Uid: %[1]s %[1]s %[1]s %[1]s Gid: %[2]s %[2]s %[2]s %[2]s Groups: %[3]s",
		u.Uid, u.Gid, strings.Join(groups, " ")))
}

// TestDropToNumber checks that a number changes user and group, and not the supplementary groups.
func TestDropToNumber(t *testing.T) {
	needRoot(t)
	// The supplementary groups do not change.
	out, err := child(t, "drop:4711", &syscall.Credential{Groups: []uint32{7, 9}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantThreads(t, out, "Uid: 4711 4711 4711 4711 Gid: 4711 4711 4711 4711 Groups: 7 9")
}

// TestDropWithoutRoot checks that only a change to the current user succeeds without root.
func TestDropWithoutRoot(t *testing.T) {
	uid, gid := os.Geteuid(), os.Getegid()
	var cred *syscall.Credential
	if uid == 0 {
		uid, gid = 4711, 4711
		cred = &syscall.Credential{Uid: 4711, Gid: 4711}
	}
	out, err := child(t, "drop:4712", cred)
	if err == nil || !strings.Contains(out, `run as "4712": change to group 4712: operation not permitted`) {
		t.Errorf("an ordinary user becomes 4712: %v\n%s", err, out)
	}
	if uid != gid {
		t.Logf("user %d has group %d: a number cannot name both, so the current user is not tested", uid, gid)
		return
	}
	if out, err := child(t, "drop:"+strconv.Itoa(uid), cred); err != nil {
		t.Errorf("Drop to the current user: %v\n%s", err, out)
	}
}

// TestDropErrors checks the messages about users that do not exist.
func TestDropErrors(t *testing.T) {
	for name, want := range map[string]string{
		"no-such-user-here":      `run as "no-such-user-here": no such user; create it, or use a number: `,
		"4294967295":             `run as "4294967295": "4294967295" is not an id between 0 and 4294967294`,
		"4294967296":             `run as "4294967296": "4294967296" is not an id between 0 and 4294967294`,
		"99999999999999999999":   `run as "99999999999999999999": "99999999999999999999" is not an id`,
		"-1":                     `run as "-1": no such user`,
		"root\nsecond line: x 0": `run as "root\nsecond line: x 0": no such user`,
	} {
		if err := Drop(name); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Drop(%q) = %v, want %s…", name, err, want)
		}
	}
	if err := Drop(""); err != nil {
		t.Errorf(`Drop("") = %v, want nil`, err)
	}
}

// TestNoReturn checks that a process that can become root again is an error.
func TestNoReturn(t *testing.T) {
	needRoot(t)
	if err := (identity{uid: 4711}).checkNoReturn(process); err == nil {
		t.Error("checkNoReturn as root = nil, want an error")
	}
}

// TestHarden checks that the process is not dumpable and has no core dumps.
func TestHarden(t *testing.T) {
	out, err := child(t, "harden", nil)
	if err != nil || !strings.Contains(out, "dumpable 0 core 0 0\n") {
		t.Errorf("Harden: %v, %q, want dumpable 0 core 0 0", err, out)
	}
}
