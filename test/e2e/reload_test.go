package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// profiled is an emulator of a profile that the test may rewrite.
type profiled struct {
	*emulator
	profile string
}

// write writes the profile, with what is in table [log].
func (p *profiled) write(t *testing.T, log string) {
	t.Helper()
	text := fmt.Sprintf("[interface]\nserver = %q\n[control]\nlisten = %q\n[tpmstate]\ndir = %q\n[flags]\nstartup = \"clear\"\n[log]\n%s",
		"unix:"+p.data, "unix:"+p.ctrl, filepath.Join(p.dir, "state"), log)
	if err := os.WriteFile(p.profile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// reload sends SIGHUP.
func (p *profiled) reload(t *testing.T) {
	t.Helper()
	if err := p.Cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// unstarted returns an emulator of a profile whose [log] is log.
func unstarted(t *testing.T, log string) *profiled {
	t.Helper()
	dir := harness.TempDir(t)
	p := &profiled{profile: filepath.Join(dir, "vm1.toml"), emulator: &emulator{
		dir: dir, data: filepath.Join(dir, "d"), ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}}
	mkdir(t, filepath.Join(dir, "state"))
	p.write(t, log)
	return p
}

// startProfiled starts an emulator of a profile whose [log] is log.
func startProfiled(t *testing.T, log string) *profiled {
	t.Helper()
	p := unstarted(t, log)
	cmd := exec.Command(ours("swtpm"), "run", p.profile)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} // without the test's terminal
	p.Process = harness.Start(t, cmd)
	p.await(t, p.data)
	return p
}

// TestReload checks that SIGHUP reads the log's settings again: level and prefix, also for a
// connected client, and that a renamed log file is created again.
func TestReload(t *testing.T) {
	p := startProfiled(t, "file = \"log\"\nprefix = \"a: \"\n")
	c := p.open(t, v20)
	c.ok(t, random20)
	if err := os.Rename(p.log, p.log+".1"); err != nil {
		t.Fatal(err)
	}
	p.write(t, "file = \"log\"\nlevel = 2\nprefix = \"b: \"\ntruncate = true\n")
	p.reload(t)
	said := func(file, want string) {
		t.Helper()
		if harness.Until(func() bool { c.ok(t, random20); return strings.Contains(harness.Read(t, file), want) }) != nil {
			t.Errorf("no %q in %s:\n%s", want, file, harness.Read(t, file))
		}
	}
	said(p.log, "b:  SWTPM_IO_Read: length 12\nb:  80 01 ")
	if old := harness.Read(t, p.log+".1"); strings.Contains(old, "SWTPM_IO_Read") {
		t.Errorf("the traffic is in the old file:\n%s", old)
	}

	// A mistake is one line, and nothing changes.
	p.write(t, "file = \"other\"\nlevel = \"much\"\n")
	p.reload(t)
	said(p.log, "b: reload: "+p.profile+":11:9: [log] level: invalid value \"much\"; ")
	if n := strings.Count(harness.Read(t, p.log), "reload: "); n != 1 {
		t.Errorf("the mistake has %d lines", n)
	}
	p.write(t, "fd = 7\nlevel = 1\n")
	p.reload(t)
	said(p.log, "b: reload: [log] fd: 7: a reload cannot change the descriptor")
	p.write(t, "file = \"no/log\"\nlevel = 1\n")
	p.reload(t)
	said(p.log, fmt.Sprintf("b: reload: log: open %s: no such file or directory; create its directory, or correct the path; nothing has changed\n", filepath.Join(p.dir, "no/log")))

	// The level is lowered again; a line in the new log names the settings that cannot change.
	p.write(t, "file = \"other\"\nprefix = \"c: \"\n[pid]\nfile = \"pid\"\n")
	p.reload(t)
	other := filepath.Join(p.dir, "other")
	said(other, "c: the profile has changed in more than [log]; the other changes take effect at the next start\n")
	before := harness.Read(t, p.log)
	c.ok(t, random20)
	if got := harness.Read(t, p.log); got != before {
		t.Errorf("the old log got\n%s", strings.TrimPrefix(got, before))
	}
	if strings.Contains(harness.Read(t, other), "SWTPM_IO") {
		t.Errorf("level 1 has traffic:\n%s", harness.Read(t, other))
	}
	p.terminate(t)
}

// TestHangupClassic checks that SIGHUP ends a TPM of a classic command line at once.
//
// Compat: C-136: swtpm does so, too.
func TestHangupClassic(t *testing.T) {
	e := start(t, setup{})
	if err := e.Cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	e.Wait(t)
	if s := e.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); s != unix.SIGHUP {
		t.Errorf("it ended by %v", s)
	}
}

// TestHangupTerminal checks that the end of its terminal ends the TPM of a profile in order: the
// state is on disk and the sockets are removed.
func TestHangupTerminal(t *testing.T) {
	p := startProfiled(t, "file = \"log\"\n")
	p.terminate(t)
	master, slave, _ := terminal(t)
	cmd := exec.Command(ours("swtpm"), "run", p.profile)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	p.Process = harness.Start(t, cmd)
	p.await(t, p.data)
	slave.Close()
	p.reload(t) // this is no terminal that goes
	p.open(t, v20).ok(t, random20)
	master.Close()
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d; log:\n%s", code, harness.Read(t, p.log))
	}
	for _, path := range []string{p.data, p.ctrl} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is there still", path)
		}
	}
}
