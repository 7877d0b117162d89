package harness

import (
	"os"
	"os/exec"
	"testing"
)

// Child returns the command that runs the test binary once more, with args and with variable set to 1.
// TestMain of the package then acts as the program under test.
func Child(t testing.TB, variable string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), variable+"=1")
	return cmd
}
