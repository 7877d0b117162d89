//go:build cgo && !record

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// lacking confines this process, and prints the restrictions that are in force.
func lacking(own string) error {
	release := manyThreads()
	defer close(release)
	result := make(chan error)
	try := make(chan struct{})
	go func() { // on a thread that existed before
		runtime.LockOSThread()
		try <- struct{}{}
		<-try
		result <- opened("/etc/passwd", unix.O_RDONLY)
	}()
	<-try
	a, err := Enter(Plan(&config.Config{Sandbox: config.Sandbox{Seccomp: config.SeccompKill, Landlock: config.LandlockBestEffort}, State: config.State{Location: nv.Location{Kind: nv.Directory, Path: own}}}, ""))
	fmt.Println("confined:", a)
	fmt.Println("missing:", a.Missing)
	if err != nil {
		return err
	}
	close(try)
	fmt.Println("another file:", <-result)
	return nil
}

// TestWithoutProc checks that a process is confined if /proc is not mounted, and if a policy
// refuses access to it, which is reported in one line.
func TestWithoutProc(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		what, mount, missing string
		cred                 *syscall.Credential
	}{
		{"no /proc", "mount -t tmpfs none /proc", "missing: <nil>\n", nil},
		{"no /proc, an ordinary user", "mount -t tmpfs none /proc", "missing: <nil>\n", &syscall.Credential{Uid: 4711, Gid: 4711}},
		{"a policy", "mount -t tmpfs -o mode=0700 none /proc", "missing: a security policy of this host", &syscall.Credential{Uid: 4711, Gid: 4711}},
	} {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		setpriv := ""
		if tt.cred != nil {
			exe = copyFile(t, exe)
			setpriv = fmt.Sprintf("setpriv --reuid %d --regid %d --clear-groups", tt.cred.Uid, tt.cred.Gid)
		}
		cmd := exec.Command("unshare", "--mount", "sh", "-c", tt.mount+" && exec "+setpriv+" "+exe)
		cmd.Env = append(os.Environ(), childVar+"=lacking:/tmp")
		b, err := cmd.CombinedOutput()
		out := string(b)
		if err != nil || strings.Count(out, tt.missing) != 1 || !strings.Contains(out, "confined: seccomp kill") {
			t.Errorf("%s: %v\n%s", tt.what, err, out)
		}
		if !strings.Contains(out, "no Landlock") && !strings.Contains(out, "another file: "+unix.EACCES.Error()) {
			t.Errorf("%s: Landlock does not reach an old thread\n%s", tt.what, out)
		}
	}
}

// refusedByService confines this process after a filter that refuses calls with EPERM.
func refusedByService(calls []string) error {
	f, err := seccomp.NewFilter(seccomp.ActAllow)
	if err != nil {
		return err
	}
	for _, name := range calls[1:] {
		number, err := seccomp.GetSyscallFromName(name)
		if err != nil {
			return err
		}
		if err := f.AddRule(number, seccomp.ActErrno.SetReturnCode(int16(unix.EPERM))); err != nil {
			return err
		}
	}
	if err := f.Load(); err != nil {
		return err
	}
	return lacking(calls[0])
}

// TestRefusedByService checks that a filter of the service disables only the restrictions that
// it refuses, and that they are reported.
func TestRefusedByService(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct{ calls, missing, confined string }{
		{"prlimit64", "missing: <nil>", "confined: seccomp kill"},
		{"capset", "missing: cannot drop the capabilities: a filter of the service or a security policy refuses capset: operation not permitted", "confined: seccomp kill"},
		{"capset:prlimit64", "missing: cannot drop the capabilities", "confined: seccomp kill"},
		{"landlock_create_ruleset", "missing: no Landlock", "confined: seccomp kill, no Landlock"},
		{"landlock_restrict_self", "missing: no Landlock", "confined: seccomp kill, no Landlock"},
	} {
		out, err := child(t, "refused:"+t.TempDir()+":"+tt.calls, nil)
		if err != nil || strings.Count(out, "missing: ") != 1 || !strings.Contains(out, tt.missing) || !strings.Contains(out, tt.confined) {
			t.Errorf("%s: %v, want %q\n%s", tt.calls, err, tt.missing, out)
		}
	}
}
