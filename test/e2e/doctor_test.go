package e2e_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// ward is a profile and the files that it names, in a directory of its own.
type ward struct {
	dir, state string // state is the directory of the state

	tpm, server, place, startup string // values of the profile
	tpmstate, ends, more        string // further lines, ends of [interface]
}

func newWard(t *testing.T, v version, state []byte) *ward {
	t.Helper()
	dir := harness.TempDir(t)
	w := &ward{dir: dir, state: filepath.Join(dir, "st"), tpm: string(v), server: "unix:" + filepath.Join(dir, "d"), startup: "clear"}
	w.place = fmt.Sprintf("dir = %q", w.state)
	mkdir(t, w.state)
	if err := os.Chmod(w.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if state != nil {
		write(t, w.in(v.file()), state)
	}
	return w
}

// in is the path of a state file.
func (w *ward) in(name string) string { return filepath.Join(w.state, name) }

// at is the path of a file next to the state.
func (w *ward) at(name string) string { return filepath.Join(w.dir, name) }

// profile writes the profile and returns its path.
func (w *ward) profile(t *testing.T, user string) string {
	t.Helper()
	text := fmt.Sprintf("tpm = %q\n[interface]\nserver = %q\n%s\n[tpmstate]\n%s\n%s\n[flags]\nstartup = %q\n%s\n",
		w.tpm, w.server, w.ends, w.place, w.tpmstate, w.startup, w.more)
	if user != "" && !strings.Contains(text, "[sandbox]") {
		text += fmt.Sprintf("[sandbox]\nuser = %q\n", user)
	}
	path := w.at("vm.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// snapshot returns the properties of everything below dir that an examination must not change.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil { // beneath a directory that we may not enter
			fmt.Fprintln(&b, path, err)
			return nil
		}
		content := ""
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size < 1<<20 {
			if b, err := os.ReadFile(path); err == nil { // another user's is not ours to read
				content = fmt.Sprintf("%x", b)
			}
		}
		fmt.Fprintln(&b, path, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim, content)
		if err != nil { // a directory that we cannot read
			return fs.SkipDir
		}
		return nil
	})
	return b.String()
}

// diagnosis is the output of swtpm doctor --json.
type diagnosis struct {
	Profile  string
	Starts   bool
	Findings []struct{ Check, Severity, What, Where, Advice string }
}

// sickness is a condition that keeps a TPM from starting, or only looks so.
type sickness struct {
	name string
	root bool                    // only root can make it
	make func(*testing.T, *ward) // makes files, which are the TPM's user's then
	then func(*testing.T, *ward) // spoils them
	v    version                 // default 2.0
	want []string                // CHECK: SEVERITY: TEXT of findings; TEXT is in the line
	fine bool                    // it starts
	any  bool                    // whether it starts is up to this machine
}

// TestDoctorAgrees checks for each condition that keeps a TPM from starting that the doctor
// reports it and that swtpm run fails, that the doctor reports no error for a TPM that starts,
// and that the doctor changes nothing: as an ordinary user, and as root for the user of the
// profile.
func TestDoctorAgrees(t *testing.T) {
	t.Parallel()
	states := map[string][]byte{
		"1.2": makeState(t, v12),
		"2.0": makeState(t, v20),
		"key": makeState(t, v20, "--key", "file=testdata/key128.hex,mode=aes-128-cbc"),
	}
	for _, s := range sicknesses(states) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.root {
				needRoot(t, "it "+s.name)
			}
			for _, asRoot := range []bool{true, false} {
				if os.Geteuid() != 0 && asRoot {
					continue
				}
				s.examine(t, states, asRoot)
			}
		})
	}
}

func (s sickness) examine(t *testing.T, states map[string][]byte, asRoot bool) {
	t.Helper()
	if s.v == "" {
		s.v = v20
	}
	w := newWard(t, s.v, states[string(s.v)])
	if s.make != nil {
		s.make(t, w)
	}
	giveAway(t, w.dir)
	if s.then != nil {
		s.then(t, w)
	}
	user := ""
	if asRoot {
		user = fmt.Sprint(nobody)
	}
	profile := w.profile(t, user)

	before := snapshot(t, w.dir)
	code, out, errs := runCmd(t, w.command(asRoot, "doctor", "--json", profile))
	if after := snapshot(t, w.dir); after != before {
		t.Errorf("as root %v: the doctor has changed\n%sto\n%s", asRoot, before, after)
	}
	var d []diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d) != 1 || errs != "" {
		t.Fatalf("as root %v: the doctor says %q, %q: %v", asRoot, out, errs, err)
	}
	if starts := code == 0; starts != d[0].Starts || code > 1 {
		t.Errorf("as root %v: exit code %d, starts %v", asRoot, code, d[0].Starts)
	}
	text := d[0].lines()
	for _, want := range s.want {
		if !has(text, want) {
			t.Errorf("as root %v: no finding %q in\n%s", asRoot, want, strings.Join(text, "\n"))
		}
	}
	if !s.any && s.fine != d[0].Starts {
		t.Errorf("as root %v: the doctor says that it starts: %v\n%s", asRoot, d[0].Starts, strings.Join(text, "\n"))
	}
	if started, said := w.try(t, asRoot, profile); started != d[0].Starts {
		t.Errorf("as root %v: started: %v, but the doctor says\n%s\nand the emulator\n%s", asRoot, started, strings.Join(text, "\n"), said)
	}
}

// lines are the findings, CHECK: SEVERITY: all the rest.
func (d diagnosis) lines() (lines []string) {
	for _, f := range d.Findings {
		lines = append(lines, fmt.Sprintf("%s: %s: %s | %s | %s", f.Check, f.Severity, f.Where, f.What, f.Advice))
	}
	return lines
}

// has reports whether a line begins with the first two words of want and contains the rest of
// want.
func has(lines []string, want string) bool {
	check, rest, _ := strings.Cut(want, ": ")
	severity, what, _ := strings.Cut(rest, ": ")
	for _, l := range lines {
		if strings.HasPrefix(l, check+": "+severity+": ") && strings.Contains(l, what) {
			return true
		}
	}
	return false
}

// giveAway changes the owner of everything below dir to the TPM's user.
func giveAway(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// command is swtpm with args, run by root or by the TPM's user.
func (w *ward) command(asRoot bool, args ...string) *exec.Cmd {
	cmd := exec.Command(ours("swtpm"), args...)
	cmd.Dir = "/"
	if os.Geteuid() == 0 && !asRoot {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// try runs the profile. It reports whether the TPM starts and is not in failure mode, and returns
// the emulator's output.
func (w *ward) try(t *testing.T, asRoot bool, profile string) (started bool, said string) {
	t.Helper()
	ready := filepath.Join(harness.TempDir(t), "n")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: ready})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	if err := os.Chmod(ready, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := w.command(asRoot, "run", profile)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready)
	p := harness.Start(t, cmd)
	defer func() {
		_ = p.Cmd.Process.Signal(unix.SIGTERM)
		p.Wait(t)
	}()
	for up, end := false, time.Now().Add(harness.EventTimeout); !up; {
		_ = notify.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		b := make([]byte, 64)
		n, err := notify.Read(b)
		up = err == nil && strings.Contains(string(b[:n]), "READY=1")
		if !up && p.Ended() {
			return false, p.Out.String()
		}
		if time.Now().After(end) {
			t.Fatalf("neither ready nor gone:\n%s", p.Out.String())
		}
	}
	if w.startup == "none" { // a client powers it on
		c, err := ctrl.Dial(t.Context(), "unix", w.at("c"))
		must(t, err)
		defer func() { _ = c.Close() }()
		c.Timeout = harness.EventTimeout
		return c.Init(0) == nil, p.Out.String()
	}
	network, addr, _ := strings.Cut(w.server, ":")
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	cmdText := random20
	if w.tpm == "1.2" {
		cmdText = ticks12
	}
	rsp, err := (&channel{Conn: conn}).transmit(cmdText)
	if err != nil {
		t.Fatal(err)
	}
	const failure20, fail12 = 0x101, 9
	return result(rsp) != failure20 && result(rsp) != fail12, p.Out.String()
}

// TestDoctorBlind checks that the doctor does not report missing rights of the TPM's user if the
// caller may not change to that user, because it cannot find them out.
func TestDoctorBlind(t *testing.T) {
	t.Parallel()
	w := newWard(t, v20, nil)
	giveAway(t, w.dir)
	chmod(t, w.state, 0)
	code, out, _ := runCmd(t, w.command(false, "doctor", w.profile(t, "4711")))
	if code != 1 || !strings.Contains(out, "error: user: ") || !strings.Contains(out, "note: directory: ") || !strings.Contains(out, "run the doctor as root") ||
		strings.Contains(out, "error: directory") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
