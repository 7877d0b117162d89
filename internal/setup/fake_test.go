package setup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// fixture is a program with captured output and a TPM 2.0 library without an engine.
type fixture struct {
	*program
	stdout, stderr bytes.Buffer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{}
	f.program = &program{
		Environment: Environment{Name: "swtpm_setup", Stdout: &f.stdout, Stderr: &f.stderr, Bindir: "/bin"},
		o:           &options{TPM2: true}, out: &f.stdout, log: &messages{stdout: &f.stdout, stderr: &f.stderr},
		distroProfiles: t.TempDir(), show: &terminal{},
		caps: capabilities{
			versions: []tpm.Version{tpm.V12, tpm.V20}, rsaSizes: []string{"2048", "3072"},
			profiles: []string{"default-v1", "null", "custom"}, builtin: `[{"Name":"default-v1"}]`,
		},
	}
	return f
}

// configured returns a configuration with this text.
func configured(text string) settings { return settings{cli.ConfigFile(text)} }

// writeTo writes a file below dir and returns its path.
func writeTo(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// script returns the path of an executable shell script.
func script(t *testing.T, text string) string {
	return writeTo(t, t.TempDir(), "tool", "#!/bin/sh\n"+text+"\n", 0o755)
}

// wantError checks that err contains want, or is nil if want is "".
func wantError(t *testing.T, name string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: error %v, want %q", name, err, want)
	}
}

// fakeTPM is a TPM with a fixed description.
type fakeTPM struct {
	info string
	err  error
}

func (f fakeTPM) Execute(context.Context, []byte) ([]byte, error) {
	return nil, fmt.Errorf("unexpected command")
}
func (f fakeTPM) Info(context.Context, uint64) (string, error) { return f.info, f.err }
