package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// outcome is the exit code and the output of a program.
type outcome struct {
	Exit           int
	Stdout, Stderr string
}

// oldState returns a directory with a TPM of the reference: to make a TPM 1.2 takes
// seconds.
func oldState(t *testing.T, v version) string {
	t.Helper()
	dir := harness.TempDir(t)
	write(t, filepath.Join(dir, v.file()), []byte(harness.Read(t, filepath.Join("testdata", "reference", v.file()))))
	return dir
}

// withTCPData starts an emulator whose data channel is TCP, at the address that
// it returns.
func withTCPData(t *testing.T, program string, v version) (e *emulator, host string, port int) {
	t.Helper()
	port = harness.FreePort(t)
	e = start(t, setup{program: program, tpm: v, state: oldState(t, v), nodata: true, args: []string{"--server", fmt.Sprintf("type=tcp,port=%d", port)}})
	return e, "127.0.0.1", port
}

// TestBiosCalls checks that calls recorded with swtpm_bios and swtpm 0.11 have the same
// exit codes and output with ours, step by step. HELP stands for the usage.
func TestBiosCalls(t *testing.T) {
	t.Parallel()
	var records []struct {
		TPM            version
		Argv, Env      []string
		Exit           int
		Stdout, Stderr string
	}
	if err := json.Unmarshal([]byte(harness.Read(t, "testdata/bios-calls.json")), &records); err != nil {
		t.Fatal(err)
	}
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			e, host, port := withTCPData(t, ours("swtpm"), v)
			_, help, _ := runCmd(t, exec.Command(ours("swtpm_bios"), "-h"))
			fill := strings.NewReplacer("DATA", fmt.Sprintf("%s:%d", host, port), "HOST", host, "PORT", fmt.Sprint(port), "CTRL", e.ctrl)
			steps := 0
			for i, r := range records {
				if r.TPM != v {
					continue
				}
				steps++
				cmd := exec.Command(ours(r.Argv[0]))
				cmd.Args = []string{r.Argv[0]}
				for _, a := range r.Argv[1:] {
					cmd.Args = append(cmd.Args, fill.Replace(a))
				}
				cmd.Env = os.Environ()
				for _, e := range r.Env {
					name, value, _ := strings.Cut(e, "=")
					cmd.Env = append(cmd.Env, name+"="+fill.Replace(value))
				}
				var got outcome
				got.Exit, got.Stdout, got.Stderr = runCmd(t, cmd)
				want := outcome{r.Exit, strings.ReplaceAll(r.Stdout, "HELP", help), r.Stderr}
				if got != want {
					t.Errorf("record %d, %q: %+v, want %+v", i, cmd.Args, got, want)
				}
			}
			if steps < 20 {
				t.Errorf("%d records, want at least 20", steps)
			}
		})
	}
}

// TestBiosOfBoth checks that our swtpm_bios and the reference's have the same exit codes and
// output, each with our emulator and the reference's, over a Unix socket and TCP.
func TestBiosOfBoth(t *testing.T) {
	t.Parallel()
	theirs, emulators := harness.Need(t, "swtpm_bios", "swtpm-tools"), []string{ours("swtpm"), harness.Reference(t)}
	// A line in parentheses is for swtpm_ioctl.
	calls := []string{"-o", "(-i)", "-o", "-o", "-n -cs", "-n -u", "-n -u", "(-i)", "", "(-i)", "-c -cs -u", "(-i)", "-ea", "(-i)", "-d", "-cs",
		"(-i)", "-s", "(-i)", "-d -o -n -ea -u", "(--stop)", "-c -u"}
	for _, v := range both {
		for _, program := range emulators {
			for _, tcp := range []bool{false, true} {
				if !v.runs(program == emulators[0] && !tcp) {
					continue
				}
				t.Run(fmt.Sprintf("%s %s TCP %v", v, program, tcp), func(t *testing.T) {
					t.Parallel()
					a, b := newBios(t, ours("swtpm_bios"), program, v, tcp), newBios(t, theirs, program, v, tcp)
					for i, line := range calls {
						if got, want := a.step(t, line), b.step(t, line); got != want {
							t.Errorf("step %d, swtpm_bios %s: %+v, want %+v", i, line, got, want)
						}
					}
				})
			}
		}
	}
}

// bios is a swtpm_bios and the emulator that it talks to.
type bios struct {
	tool   string
	e      *emulator
	target []string
}

func newBios(t *testing.T, tool, program string, v version, tcp bool) *bios {
	t.Helper()
	b := &bios{tool: tool}
	if tcp {
		e, host, port := withTCPData(t, program, v)
		b.e, b.target = e, []string{"--tcp", fmt.Sprintf("%s:%d", host, port)}
	} else {
		b.e = start(t, setup{program: program, tpm: v, state: oldState(t, v)})
		b.target = []string{"--unix", b.e.data}
	}
	b.target = append(b.target, v.options()...)
	return b
}

// step runs a line of calls.
func (b *bios) step(t *testing.T, line string) (o outcome) {
	t.Helper()
	cmd := exec.Command(b.tool, append(b.target[:len(b.target):len(b.target)], strings.Fields(line)...)...)
	if request, ok := strings.CutPrefix(line, "("); ok {
		cmd = exec.Command(ours("swtpm_ioctl"), "--unix", b.e.ctrl, strings.TrimSuffix(request, ")"))
	}
	o.Exit, o.Stdout, o.Stderr = runCmd(t, cmd)
	return o
}
