package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestListCommands checks the number of commands in swtpm list of a TPM without metrics that
// no unit runs, while its only control client stays.
func TestListCommands(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root sees the descriptors of a TPM")
	}
	for _, v := range both {
		e := start(t, setup{tpm: v, args: []string{"--flags", "not-need-init", "--terminate"}})
		control := e.control(t)
		if _, err := control.Capability(); err != nil {
			t.Fatal(err)
		}
		const n = 5
		stays, leaves := harness.Dial(t, e.Process, e.data), harness.Dial(t, e.Process, e.data)
		for i := range n {
			c := leaves
			if i == 0 {
				c = stays
			}
			if _, err := c.Write(harness.Unhex(map[version]string{v12: startup12, v20: startup20}[v])); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		}
		var got listedTPM
		_ = harness.Until(func() bool { // the files of a process may take too long for a list
			got = listOf(t, e.Cmd.Process.Pid)
			return got.Commands != nil
		})
		if got.Commands == nil || *got.Commands < 1 || *got.Commands > n || got.TPM != string(v) {
			t.Errorf("TPM %s: %+v, want up to %d commands", v, got, n)
		}
		_ = leaves.Close()
		all := func() bool {
			got := listOf(t, e.Cmd.Process.Pid)
			return got.Commands != nil && *got.Commands == n
		}
		if err := harness.Until(all); err != nil {
			t.Errorf("TPM %s: %+v once a client has left, want %d commands", v, listOf(t, e.Cmd.Process.Pid), n)
		}
		if _, err := control.Capability(); err != nil {
			t.Errorf("after the list: %v", err)
		}
	}
}

// listedTPM is a part of swtpm list --json.
type listedTPM struct {
	PID      int
	TPM      string
	Commands *uint64
}

// listOf returns the TPM of a process as swtpm list has it.
func listOf(t *testing.T, pid int) listedTPM {
	t.Helper()
	pattern := fmt.Sprintf("pid %d", pid)
	var l struct{ TPMs []listedTPM }
	if err := json.Unmarshal([]byte(mustRun(t, ours("swtpm"), "list", "--json", pattern)), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.TPMs) != 1 || l.TPMs[0].PID != pid {
		t.Fatalf("%+v, want the TPM of process %d alone", l.TPMs, pid)
	}
	return l.TPMs[0]
}

// TestListWatch checks that --watch redraws on a terminal, writes no escape sequence to a
// pipe, and ends with SIGINT.
func TestListWatch(t *testing.T) {
	t.Parallel()
	const home = "\x1b[H\x1b[2J"
	var piped, shown harness.Buffer
	for _, out := range []*harness.Buffer{&piped, &shown} {
		cmd := exec.Command(ours("swtpm"), "list", "--watch", "no TPM has this name")
		cmd.Stdout = out
		if out == &shown {
			cmd.Stdout = openTerminal(t, out)
		}
		p := harness.Start(t, cmd)
		harness.Await(t, "two tables", func() bool { return strings.Count(out.String(), "0 TPMs") >= 2 })
		_ = p.Cmd.Process.Signal(unix.SIGINT)
		if code := p.Wait(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	if got := shown.String(); strings.Count(got, home) < 2 {
		t.Errorf("the terminal got %q", got)
	}
	if got := piped.String(); strings.Contains(got, "\x1b") {
		t.Errorf("the pipe got %q", got)
	}
}

// TestNoMatch checks that list and upgrade fail with one line if no TPM matches.
func TestNoMatch(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"list"}, {"list", "--json"}, {"upgrade"}} {
		cmd := exec.Command(ours("swtpm"), append(args, "no-such-tpm")...)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 1 || out.String() != "" || strings.Count(errs.String(), "\n") != 1 || !strings.Contains(errs.String(), "no TPM matches no-such-tpm") {
			t.Errorf("%q: exit code %d, %q, %q", args, code, out.String(), errs.String())
		}
	}
}

// TestUpgradeNamed checks that a TPM that is named and cannot be restarted is an error, and that
// --dry-run is none.
func TestUpgradeNamed(t *testing.T) {
	needRoot(t, "a replaced library that root sees")
	t.Parallel()
	copied := filepath.Join(harness.TempDir(t), "swtpm")
	write(t, copied, []byte(harness.Read(t, ours("swtpm"))))
	if err := os.Chmod(copied, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := harness.TempDir(t)
	p := harness.Start(t, exec.Command(copied, "socket", "--tpm2", "--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"), "--tpmstate", "dir="+dir))
	name := fmt.Sprintf("pid %d", p.Cmd.Process.Pid)
	harness.Await(t, "the TPM", func() bool { return exec.Command(ours("swtpm"), "list", name).Run() == nil })
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		args []string
	}{{0, []string{"--dry-run", name}}, {1, []string{"--no-selftest", name}}} {
		cmd := exec.Command(ours("swtpm"), append([]string{"upgrade"}, c.args...)...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), name+": cannot be restarted under its guest: started by no service manager") {
			t.Errorf("%q: exit code %d, %s", c.args, code, out)
		}
	}
}
