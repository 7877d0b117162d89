package swtpm_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestRuntimeSettings checks that swtpm as built by the Makefile, and by the tests, keeps the settings of
// cmd/swtpm/main.go: -X replaces them.
func TestRuntimeSettings(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.DefaultGODEBUG}}", "./cmd/swtpm").Output()
	if err != nil {
		t.Fatal(err)
	}
	settings := strings.TrimSpace(string(out))
	if !strings.Contains(settings, "containermaxprocs=0") {
		t.Fatalf("settings of cmd/swtpm/main.go: %q", settings)
	}
	for file, word := range map[string]string{"Makefile": "DEBUG_SWTPM := ", "test/harness/harness.go": "-X=runtime.godebugDefault="} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want := word + settings + ",profstackdepth=0"; !strings.Contains(string(b), want) {
			t.Errorf("%s: want %q in it", file, want)
		}
	}
}
