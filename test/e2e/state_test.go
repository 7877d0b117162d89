package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestStateRekey checks that the reference reads the state after each rekey, volatile state included.
func TestStateRekey(t *testing.T) {
	t.Parallel()
	theirs := harness.Reference(t)
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			dir := vector(t, v)
			want, err := pcr10(t, theirs, v, dir, "plain")
			if err != nil || strings.Trim(want, "0") == "" {
				t.Fatalf("PCR 10 is %s, %v", want, err)
			}
			last, keys := "plain", []string{"aes-128", "aes-256", "plain", "aes-256"}
			if !v.runs(false) {
				keys = []string{"aes-256"}
			}
			for _, next := range keys {
				stateVerb(t, "rekey", dir, append(keyArgs(last), newKeyArgs(next)...)...)
				stateVerb(t, "verify", dir, keyArgs(next)...)
				for _, program := range []string{theirs, ours("swtpm")} {
					if got, err := pcr10(t, program, v, dir, next); got != want || err != nil {
						t.Errorf("%s to %s: %s finds PCR 10 %s, %v, want %s", last, next, program, got, err, want)
					}
				}
				if code, _, stderr := run(t, append([]string{"state", "verify", "--tpmstate", "dir=" + dir}, keyArgs(last)...)...); code != 1 {
					t.Errorf("%s to %s: verify with the old key: exit code %d; %s", last, next, code, stderr)
				}
				last = next
			}
		})
	}
}

// TestStateLinear checks rekey, verify, inspect, rollback, export and import with a state in one
// file; the archive goes into a directory and back into a file.
func TestStateLinear(t *testing.T) {
	t.Parallel()
	theirs := harness.Reference(t)
	dir := harness.TempDir(t)
	place := func(name string) []string {
		return []string{"--tpmstate", "backend-uri=file://" + filepath.Join(dir, name), "--tpm", "2.0"}
	}
	options := func(name, key string) []string { return append(place(name)[:2], keyArgs(key)...) }
	verb := func(verb, name string, args ...string) {
		t.Helper()
		mustState(t, append(append([]string{verb}, place(name)...), args...)...)
	}
	write(t, filepath.Join(dir, "image"), []byte(harness.Read(t, "../../internal/nv/linear/testdata/plain.bin")))
	want, err := pcr10At(t, theirs, v20, options("image", "plain")...)
	if err != nil || strings.Trim(want, "0") == "" {
		t.Fatalf("PCR 10 is %s, %v", want, err)
	}
	last := "plain"
	for _, next := range []string{"aes-128", "aes-256", "plain", "aes-256"} {
		verb("rekey", "image", append(keyArgs(last), newKeyArgs(next)...)...)
		before := harness.Read(t, filepath.Join(dir, "image"))
		verb("verify", "image", keyArgs(next)...)
		verb("inspect", "image")
		if harness.Read(t, filepath.Join(dir, "image")) != before {
			t.Errorf("%s to %s: verify or inspect has changed the file", last, next)
		}
		for _, program := range []string{theirs, ours("swtpm")} {
			if got, err := pcr10At(t, program, v20, options("image", next)...); got != want || err != nil {
				t.Errorf("%s to %s: %s finds PCR 10 %s, %v, want %s", last, next, program, got, err, want)
			}
		}
		last = next
	}
	if code, _, stderr := run(t, append([]string{"state", "rollback"}, place("image")...)...); code != 1 || !strings.Contains(stderr, "no previous generation") {
		t.Errorf("rollback: exit code %d, %s", code, stderr)
	}
	verb("export", "image", append(keyArgs(last), "--sealed", filepath.Join(dir, "sealed"))...)
	to := harness.TempDir(t)
	stateVerb(t, "import", to, append(keyArgs(last), filepath.Join(dir, "sealed"))...)
	stateVerb(t, "export", to, append(keyArgs(last), "--plain", filepath.Join(dir, "plain"))...)
	verb("import", "second", append(keyArgs("aes-128"), filepath.Join(dir, "plain"))...)
	if got, err := pcr10At(t, theirs, v20, options("second", "aes-128")...); got != want || err != nil {
		t.Errorf("after import: PCR 10 is %s, %v, want %s", got, err, want)
	}
}

// TestStateTransfer checks that the reference reads the state that import creates from an archive:
// under another key, and with its key as exported.
func TestStateTransfer(t *testing.T) {
	t.Parallel()
	theirs := harness.Reference(t)
	for _, v := range both {
		for _, c := range []struct {
			from, to string
			export   []string
			imports  []string
		}{
			{from: "plain", to: "aes-256"},
			{from: "aes-128", to: "plain", export: []string{"--passphrase-file", "testdata/passphrase"}, imports: []string{"--passphrase-file", "testdata/passphrase"}},
			{from: "aes-256", to: "aes-256", export: []string{"--sealed"}},
			{from: "aes-128", to: "aes-256", export: []string{"--plain"}},
		} {
			if !v.runs(c.from == "aes-128" && c.to == "plain") {
				continue
			}
			t.Run(fmt.Sprintf("%s, %s to %s", v, c.from, c.to), func(t *testing.T) {
				t.Parallel()
				dir := vector(t, v)
				want, err := pcr10(t, ours("swtpm"), v, dir, "plain")
				if err != nil {
					t.Fatal(err)
				}
				stateVerb(t, "rekey", dir, newKeyArgs(c.from)...)
				archive := filepath.Join(harness.TempDir(t), "archive")
				stateVerb(t, "export", dir, append(append(keyArgs(c.from), c.export...), archive)...)
				to := harness.TempDir(t)
				stateVerb(t, "import", to, append(append(keyArgs(c.to), c.imports...), archive)...)
				if got, err := pcr10(t, theirs, v, to, c.to); got != want || err != nil {
					t.Errorf("PCR 10 is %s, %v, want %s", got, err, want)
				}
			})
		}
	}
}

// TestStateVerifyTouchesNothing checks that inspect and verify open files for reading only, and
// change nothing, also with damaged files.
func TestStateVerifyTouchesNothing(t *testing.T) {
	needRoot(t, "a process with keys lets nobody else trace it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		for _, spoil := range []string{"", "truncate", "no permanent"} {
			t.Run(string(v)+" "+spoil, func(t *testing.T) {
				t.Parallel()
				dir := vector(t, v)
				file := filepath.Join(dir, v.file())
				if err := os.Chmod(file, 0o440); err != nil { // an emulator would make it writable
					t.Fatal(err)
				}
				var err error
				switch spoil {
				case "truncate":
					err = os.Truncate(file, 700)
				case "no permanent":
					err = os.Rename(file, file+".bak")
				}
				if err != nil {
					t.Fatal(err)
				}
				before := snapshot(t, dir)
				for _, verb := range []string{"inspect", "verify", "export"} {
					trace := filepath.Join(harness.TempDir(t), "trace")
					args := []string{"-f", "-y", "-o", trace, "-e", "trace=file,desc", ours("swtpm"), "state", verb, "--tpmstate", "dir=" + dir}
					if verb == "export" {
						args = append(args, filepath.Join(harness.TempDir(t), "archive"))
					}
					code, stdout, stderr := runCmd(t, exec.Command(strace, args...))
					if strings.Contains(stderr, "ptrace") {
						t.Skipf("strace may not trace here: %s", stderr)
					}
					if good := spoil == "" || verb == "inspect"; (code == 0) != good || code > 1 {
						t.Errorf("%s: exit code %d\n%s%s", verb, code, stdout, stderr)
					}
					seen := 0
					for line := range strings.Lines(harness.Read(t, trace)) {
						if !strings.Contains(line, "<"+dir) && !strings.Contains(line, `"`+dir) {
							continue
						}
						if regexp.MustCompile(`^\d+ +openat\(`).MatchString(line) {
							seen++
						}
						if changes.MatchString(line) {
							t.Errorf("%s: %s", verb, line)
						}
					}
					if seen == 0 {
						t.Errorf("%s: strace has seen no file opened", verb)
					}
				}
				if after := snapshot(t, dir); after != before {
					t.Errorf("before:\n%.2000s\nafter:\n%.2000s", before, after)
				}
			})
		}
	}
}

// changes are system calls that change a file or a directory.
var changes = regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|^\d+ +(write|pwrite|ftruncate|fchmod|fchown|rename|unlink|link|mkdir|utime|fsync|fallocate|setxattr)`)

// TestStateRekeyKilled kills rekey at each system call that changes something, and checks that the
// TPM, its volatile state and its backup have the old key or the new one, and that a second call
// gives them the new key.
func TestStateRekeyKilled(t *testing.T) {
	needRoot(t, "a process with keys lets nobody else trace it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	const v = v20
	seed := func(t *testing.T) string {
		dir := vector(t, v)
		write(t, filepath.Join(dir, v.file()+".bak"), []byte(harness.Read(t, filepath.Join(dir, v.file()))))
		stateVerb(t, "rekey", dir, newKeyArgs("aes-128")...)
		return dir
	}
	rekey := func(dir string) []string {
		args := []string{ours("swtpm"), "state", "rekey", "--tpmstate", "dir=" + dir}
		return append(append(args, keyArgs("aes-128")...), newKeyArgs("aes-256")...)
	}
	want, err := pcr10(t, ours("swtpm"), v, seed(t), "aes-128")
	if err != nil {
		t.Fatal(err)
	}

	killed := 0
	for _, call := range []string{"write", "fsync", "renameat", "unlinkat"} {
		for n := 1; ; n++ {
			dir := seed(t)
			args := []string{"-f", "-o", "/dev/null", "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)}
			for _, p := range append([]string{""}, rekeyFiles...) {
				args = append(args, "-P", filepath.Join(dir, p))
			}
			cmd := exec.Command(strace, append(args, rekey(dir)...)...)
			cmd.Env = append(noSleep(), "GOMAXPROCS=1") // strace counts by thread
			code, _, stderr := runCmd(t, cmd)
			if strings.Contains(stderr, "ptrace") {
				t.Skipf("strace may not trace here: %s", stderr)
			}
			if code == 0 {
				break
			}
			killed++
			what := fmt.Sprintf("%s %d", call, n)
			if err := checkRekeyed(t, dir, want); err != nil {
				t.Errorf("killed at %s: %v", what, err)
			}
			mustState(t, rekey(dir)[2:]...)
			stateVerb(t, "verify", dir, keyArgs("aes-256")...)
			for _, left := range []string{"NEW2-00.*", "TMP2-00.*"} {
				if files, _ := filepath.Glob(filepath.Join(dir, left)); len(files) > 0 {
					t.Errorf("killed at %s: %q are left", what, files)
				}
			}
		}
	}
	if killed < 15 {
		t.Errorf("killed %d times only", killed)
	}
}

// rekeyFiles are those that rekey touches.
var rekeyFiles = []string{
	"NEW2-00.permall", "NEW2-00.volatilestate", "NEW2-00.permall.bak", "NEW2-00.journal", "NEW2-00.journal.tmp",
	"tpm2-00.permall", "tpm2-00.volatilestate", "tpm2-00.permall.bak",
}

// checkRekeyed checks that the TPM starts with one of the keys and is what it was.
func checkRekeyed(t *testing.T, dir, want string) error {
	t.Helper()
	for _, key := range []string{"aes-128", "aes-256"} {
		got, err := pcr10(t, ours("swtpm"), v20, dir, key)
		if err != nil {
			continue
		}
		if got != want {
			return fmt.Errorf("with %s PCR 10 is %s, want %s", key, got, want)
		}
		stateVerb(t, "verify", dir, keyArgs(key)...) // the backup too
		return nil
	}
	return fmt.Errorf("the TPM starts with neither key; files %q", globAll(t, dir))
}

// TestStateInUse checks that the verbs do not change the state of a running emulator, and that the
// error names the process.
func TestStateInUse(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]string{"ours": ours("swtpm"), "reference": harness.Reference(t)} {
		dir := harness.TempDir(t)
		e := start(t, setup{program: program, tpm: v20, state: dir})
		e.power(t, v20)
		before := harness.Read(t, filepath.Join(dir, v20.file()))
		for _, verb := range []string{"inspect", "verify", "rekey --no-key", "rollback"} {
			args := append([]string{"state"}, strings.Fields(verb)...)
			code, _, stderr := run(t, append(args, "--tpmstate", "dir="+dir)...)
			if code != 1 || !strings.Contains(stderr, fmt.Sprintf("in use by process %d", e.Cmd.Process.Pid)) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%s beside %s: exit code %d, %q", verb, name, code, stderr)
			}
		}
		if harness.Read(t, filepath.Join(dir, v20.file())) != before {
			t.Errorf("beside %s: the state has changed", name)
		}
		e.Kill(t)
	}
}

// TestStateAsRoot checks that files that root creates in the directory of another user belong to
// that user.
func TestStateAsRoot(t *testing.T) {
	needRoot(t, "files of another user")
	t.Parallel()
	dir := vector(t, v20)
	for _, path := range append([]string{dir}, globAll(t, dir)...) {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	stateVerb(t, "rekey", dir, newKeyArgs("aes-128")...)
	for _, path := range globAll(t, dir) {
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != nobody || st.Gid != nobody {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
	}
	if err := unix.Access(filepath.Join(dir, ".lock"), unix.F_OK); err != nil {
		t.Error(err)
	}
}

func globAll(t *testing.T, dir string) (paths []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths
}
