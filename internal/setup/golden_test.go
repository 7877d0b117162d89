//go:build cgo

package setup

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
)

// call is a recorded call of the reference.
type call struct {
	Argv           []string `json:"argv"`
	Exit           int      `json:"exit"`
	Stdout, Stderr string
	Env            map[string]string `json:"env"`
	Files          map[string]string `json:"files"`
}

func readCalls(t *testing.T, name string) (calls []call) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &calls); err != nil {
		t.Fatal(err)
	}
	return calls
}

// result is the result of a run of our program.
type result struct {
	exit           int
	stdout, stderr string
}

// runSetup runs the program in this process.
func runSetup(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := Run(t.Context(), args, Environment{
		Name: "swtpm_setup", Stdout: &stdout, Stderr: &stderr, Bindir: "PREFIX/bin",
		Library: Library{
			Engine: libtpms.Engine(), Version: libtpms.Version(), HasProfiles: libtpms.HasProfiles(), Refuses: libtpms.Refuses,
		},
	})
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	if err != nil {
		r.exit = 1
	}
	return r
}

// dates, profiles and noise match the parts of the recordings that depend on the host, and
// messages that have no counterpart: our TPM does not listen, libtpms 0.9 does not
// support profiles, and a slow disk may be reported at any time.
var (
	dates    = regexp.MustCompile(`@ .*`)
	profiles = regexp.MustCompile(`(?m)^(Apply|Active) profile: .*\n`)
	noise    = regexp.MustCompile(`(?m)^(.*the disk is slow.*|Error getting next filename: .*|swtpm: Formatting .*|TPM is listening on Unix socket\.|swtpm process terminated unexpectedly\.|Could not start the TPM 2\.)\n`)
)

func plain(s, user string) string {
	s = dates.ReplaceAllString(s, "@ DATE")
	s = profiles.ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "as "+user+" @", "as USER @")
	return noise.ReplaceAllString(s, "")
}

// TestGolden compares messages and exit codes with the recordings of both releases of the
// reference. Where they differ the newer one counts.
func TestGolden(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("root made the recordings")
	}
	for _, release := range []string{"debian-0.7.1", "head-0.11.0"} {
		t.Run(release, func(t *testing.T) {
			calls := readCalls(t, release+".json")
			t.Chdir(t.TempDir())
			for _, dir := range []string{"WORK/st", "CA"} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile("CA/swtpm_setup.conf", []byte("active_pcr_banks = sha256\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i, c := range calls {
				compare(t, release, i, c)
			}
		})
	}
}

// fresh reports whether the recording of this call began with an empty directory: the call
// creates a TPM without --overwrite.
func fresh(c call) bool {
	return c.Exit == 0 && strings.Contains(c.Stdout, "Successfully authored") && !slices.Contains(c.Argv, "--reconfigure")
}

func compare(t *testing.T, release string, i int, c call) {
	t.Helper()
	args := c.Argv[1:]
	newer := release == "head-0.11.0"
	switch line := strings.Join(args, " "); {
	case strings.Contains(line, "profile") && !libtpms.HasProfiles():
		return // rejected, or with other words: see profile.txtar
	case strings.Contains(line, "--print-capabilities"):
		return // depends on the library
	case !newer && (strings.Contains(line, "--version") || strings.Contains(line, "--allow-signing") ||
		strings.Contains(line, "--decryption") || strings.Contains(line, "--pcr-banks -") || strings.Contains(line, "--keyfile-fd abc") ||
		strings.Contains(line, "--profile")):
		return // different in the newer one
	case strings.Contains(line, "rsa4096") || strings.Contains(line, "max"):
		return // depends on the library
	}
	if fresh(c) && !slices.Contains(args, "--overwrite") {
		if err := os.RemoveAll("WORK/st"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir("WORK/st", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := runSetup(t, args...)
	if r.exit != c.Exit {
		t.Errorf("%d %q: exit code %d, want %d; stderr %q", i, args, r.exit, c.Exit, r.stderr)
	}
	if got, want := plain(r.stderr, "root:root"), plain(c.Stderr, "root:root"); got != want {
		t.Errorf("%d %q: stderr\n%q, want\n%q", i, args, got, want)
	}
	got, want := plain(r.stdout, "root:root"), plain(c.Stdout, "root:root")
	if strings.HasPrefix(want, "TPM emulator setup tool version") { // the usage text differs
		got, _, _ = strings.Cut(got, "\n")
		want, _, _ = strings.Cut(want, "\n")
		if !libtpms.HasProfiles() || !newer {
			got, want = got[:20], want[:20]
		}
	}
	if !newer {
		want = strings.ReplaceAll(want, "ECC EK", "secp384r1 EK")
	}
	if got != want {
		t.Errorf("%d %q: stdout\n%q, want\n%q", i, args, got, want)
	}
}
