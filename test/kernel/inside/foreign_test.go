package inside_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// profiles has the AppArmor profiles that Ubuntu's packages of swtpm bring, as they are.
const profiles = "/tests/profiles"

// refusedThere are the denials that each of these profiles causes, and no other.
var refusedThere = []*regexp.Regexp{
	// The second check of the threads; each thread has reported by then.
	regexp.MustCompile(`operation="open" .*name="/proc/[0-9]+/task/"`),
	// Whether others have files where the socket and the pid file are.
	regexp.MustCompile(`operation="open" .*name="` + virtRun + `/" .*requested_mask="r"`),
	// Root's bounding set, in the constructor and in the sandbox.
	regexp.MustCompile(`operation="capable" .*capname="setpcap"`),
	// The Go runtime asks for the size of huge pages and for limits of processors, and
	// does without.
	regexp.MustCompile(`name="/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"`),
	regexp.MustCompile(`operation="open" .*name="/proc/[0-9]+/cgroup"`),
}

// TestForeignProfile checks that the emulator works under a profile that was made for
// swtpm, which stays on a host when swtpm is replaced: in the foreground and as a
// daemon, as root and as an ordinary user, with both kinds of state. One line in the
// log says what the profile refuses, and nothing else is denied.
func TestForeignProfile(t *testing.T) {
	list, _ := filepath.Glob(profiles + "/*")
	if len(list) == 0 {
		t.Skip("no profile of Ubuntu's swtpm: test/kernel/profiles.sh could not fetch one")
	}
	const local = "/etc/apparmor.d/local/usr.bin.swtpm"
	if !exists(local) { // Ubuntu's package makes it when it is installed
		write(t, local, "")
		defer func() { _ = os.Remove(local) }()
	}
	defer run(t, "apparmor_parser", "-r", "/etc/apparmor.d/usr.bin.swtpm")
	for i, profile := range list {
		run(t, "apparmor_parser", "-r", profile)
		t.Run(filepath.Base(profile)+"/libvirt", func(t *testing.T) {
			before := len(denials())
			TestConfinedLibvirt(t)
			onlyRefused(t, denials()[before:])
		})
		for j, as := range []*syscall.Credential{nil, tss(t)} {
			for k, uri := range []string{"dir://", "file://"} {
				for _, daemon := range []bool{false, true} {
					name := fmt.Sprintf("%s/%s%s/daemon=%v", filepath.Base(profile), []string{"root/", "tss/"}[j], strings.Trim(uri, ":/"), daemon)
					t.Run(name, func(t *testing.T) { underForeign(t, fmt.Sprintf("foreign%d%d%d%v", i, j, k, daemon), as, uri, daemon) })
				}
			}
		}
	}
}

// underForeign runs one emulator with the places of libvirt, which the profile names.
func underForeign(t *testing.T, name string, as *syscall.Credential, uri string, daemon bool) {
	before := len(denials())
	state := "/var/lib/libvirt/swtpm/" + name
	for _, dir := range []string{state, virtRun, virtLog} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		owner := "root:root"
		if as != nil {
			owner = "tss:tss"
		}
		run(t, "chown", "-R", owner, dir)
	}
	log, pidFile, sock := virtLog+"/"+name+".log", virtRun+"/"+name+".pid", virtRun+"/"+name+".sock"
	file := state
	if uri == "file://" {
		file += "/image"
	}
	args := []string{"socket", "--tpm2", "--tpmstate", "backend-uri=" + uri + file, "--ctrl", "type=unixio,path=" + sock,
		"--log", "file=" + log, "--pid", "file=" + pidFile}
	p := &process{cmd: exec.Command("swtpm", args...)}
	if daemon {
		p.cmd.Args = append(p.cmd.Args, "--daemon")
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	p.begin(t)
	if daemon {
		p.wait(t, 0)
	}
	until(t, "its pid file", func() bool { b, err := os.ReadFile(pidFile); return err == nil && len(b) > 0 })
	b, _ := os.ReadFile(pidFile)
	pid := strings.TrimSpace(string(b))
	var conn net.Conn
	until(t, "its socket", func() bool { c, err := net.Dial("unix", sock); conn = c; return err == nil })
	drive(t, pid, conn)
	status := readAll("/proc/" + pid + "/task/*/status")
	if n := strings.Count(status, "Seccomp:\t2\n"); n < 3 || n != strings.Count(status, "NoNewPrivs:\t1\n") || n != strings.Count(status, "CapEff:\t0000000000000000\n") {
		t.Errorf("not every thread is confined:\n%s", status)
	}
	_ = conn.Close()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Kill(n, unix.SIGTERM)
	until(t, "the end", func() bool { return p.gone() && (unix.Kill(n, 0) != nil) })
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	said := readAll(log)
	if strings.Count(said, "sandbox: ") != 1 || strings.Contains(said, "no Landlock") || !strings.Contains(said, "refuses /proc/self/task") || !strings.Contains(said, "/usr/share/doc/swtpm-go/apparmor/usr.bin.swtpm") ||
		strings.Contains(said, "CAP_SETPCAP") != (as == nil) {
		t.Errorf("the log does not say in one line what the profile refuses:\n%s", said)
	}
	if left, _ := filepath.Glob(state + "/*"); len(left) == 0 {
		t.Error("the state was not stored")
	}
	onlyRefused(t, denials()[before:])
}

// onlyRefused checks denials, and makes them expected.
func onlyRefused(t *testing.T, list []string) {
	t.Helper()
	for _, line := range list {
		known := false
		for _, r := range refusedThere {
			known = known || r.MatchString(line)
		}
		if !known {
			t.Errorf("denied: %s", line)
		}
		expected = append(expected, line)
	}
}

// readAll returns what is in the files of a pattern.
func readAll(pattern string) string {
	var s strings.Builder
	names, _ := filepath.Glob(pattern)
	for _, name := range names {
		b, _ := os.ReadFile(name)
		s.Write(b)
	}
	return s.String()
}
