package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// setupFiles are those that a setup by profile touches in the state directory.
func setupFiles(v version) []string {
	prefix := map[version]string{v12: "-00.", v20: "2-00."}[v]
	files := []string{"", ".lock", ".manufactured", ".manufactured.new"}
	for _, name := range []string{"tpm%spermall", "TMP%spermall", "NEW%spermall", "NEW%sjournal", "NEW%sjournal.tmp"} {
		files = append(files, fmt.Sprintf(name, prefix))
	}
	return files
}

// setupProfile is a profile that asks for what can be seen at the very end.
func setupProfile(v version, dir, conf string) []byte {
	more := `ek = ["secp256r1"]`
	if v == v12 {
		more = ""
	}
	return fmt.Appendf(nil, "tpm = %q\ncontrol.listen = \"unix:c\"\n[tpmstate]\ndir = \"%s/state\"\ncreate = true\n"+
		"[manufacture]\n%s\nek-cert = true\nplatform-cert = true\nlock-nvram = true\nconfig = %q\n", v, dir, more, conf)
}

// TestSetupKilled kills a setup at each system call that changes something next to
// the state. Afterwards the TPM is whole or missing, and the next setup makes
// it whole, once.
func TestSetupKilled(t *testing.T) {
	needRoot(t, "strace traces it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			if v == v12 && os.Getenv("SWTPM_TEST_REQUIRE") != "1" {
				t.Skip("each TPM 1.2 takes an RSA key: SWTPM_TEST_REQUIRE=1 makes them")
			}
			conf := makeCA(t, harness.TempDir(t), ours("swtpm_localca"))
			killed, whole := 0, 0
			for _, call := range []string{"mkdirat", "write", "pwrite64", "fsync", "ftruncate", "renameat,renameat2", "unlinkat"} {
				if !v.runs(call == "fsync" || strings.HasPrefix(call, "renameat")) {
					continue
				}
				for n := 1; ; n++ {
					died, there := setupKilled(t, strace, v, conf, call, n)
					if !died {
						break
					}
					killed++
					if there {
						whole++
					}
				}
			}
			least := 10
			if !v.runs(false) {
				least = 3 // of the calls that this version is killed at
			}
			if killed < least || whole == 0 || whole == killed {
				t.Errorf("killed %d times, %d of them with the TPM there; want both sides of the commit", killed, whole)
			}
		})
	}
}

// setupKilled kills a setup at its n-th call. It reports whether it got so far, and
// whether the TPM existed.
func setupKilled(t *testing.T, strace string, v version, conf, call string, n int) (died, there bool) {
	t.Helper()
	dir := harness.TempDir(t)
	profile, state := filepath.Join(dir, "vm.toml"), filepath.Join(dir, "state")
	write(t, profile, setupProfile(v, dir, conf))
	args := []string{"-f", "-o", "/dev/null", "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)}
	for _, f := range setupFiles(v) {
		args = append(args, "-P", filepath.Join(state, f))
	}
	cmd := exec.Command(strace, append(args, ours("swtpm-setup"), profile)...)
	cmd.Env = append(noSleep(), "GOMAXPROCS=1") // strace counts by thread
	code, _, stderr := runCmd(t, cmd)
	if strings.Contains(stderr, "ptrace") {
		t.Skipf("strace may not trace here: %s", stderr)
	}
	if code == 0 {
		return false, true
	}
	what := fmt.Sprintf("killed at %s %d", call, n)
	there = looksThere(t, v, state)
	before := ""
	if there { // it looks as if it were whole
		before = wantManufactured(t, v, state, what)
	}
	if code, out, stderr := runCmd(t, exec.Command(ours("swtpm-setup"), profile)); code != 0 {
		t.Errorf("%s: the next setup: exit code %d, %s%s", what, code, out, stderr)
		return true, there
	}
	if after := wantManufactured(t, v, state, what+", and made"); there && after != before {
		t.Errorf("%s: the TPM was made anew", what)
	}
	if mark := harness.Read(t, filepath.Join(state, ".manufactured")); !strings.Contains(mark, `"done":`) {
		t.Errorf("%s: the record says %s", what, mark)
	}
	left, _ := filepath.Glob(filepath.Join(state, "TMP*")) // a journal is for who locks the state next
	if more, _ := filepath.Glob(filepath.Join(state, "*.new")); len(left)+len(more) > 0 {
		t.Errorf("%s: %q %q are left", what, left, more)
	}
	return true, there
}

// TestSetupKilledFile kills a setup whose state is in one file at each system call
// that changes something in it or in the record next to it. The TPM exists or not;
// an existing one stays, and the next setup says that it is done.
func TestSetupKilledFile(t *testing.T) {
	needRoot(t, "strace traces it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	killed, whole := 0, 0
	for _, call := range []string{"write", "pwrite64", "fsync", "fdatasync", "renameat,renameat2"} {
		for n := 1; ; n++ {
			dir := harness.TempDir(t)
			profile, image, mark := filepath.Join(dir, "vm.toml"), filepath.Join(dir, "image"), filepath.Join(dir, ".image.manufactured")
			write(t, profile, fmt.Appendf(nil, "control.listen = \"unix:c\"\ntpmstate.file = %q\n[manufacture]\nek = [\"secp256r1\"]\nconfig = \"/dev/null\"\n", image))
			cmd := exec.Command(strace, "-f", "-o", "/dev/null", "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n),
				"-P", image, "-P", mark, "-P", mark+".new", "-P", dir, ours("swtpm-setup"), profile)
			cmd.Env = append(noSleep(), "GOMAXPROCS=1") // strace counts by thread
			code, _, stderr := runCmd(t, cmd)
			if strings.Contains(stderr, "ptrace") {
				t.Skipf("strace may not trace here: %s", stderr)
			}
			if code == 0 {
				break
			}
			killed++
			what := fmt.Sprintf("killed at %s %d", call, n)
			before := eksOf(profile)
			if before != "" {
				whole++
			}
			made := mustRun(t, ours("swtpm-setup"), profile)
			if isNew := strings.Contains(made, "Successfully authored TPM state."); isNew != (before == "") {
				t.Errorf("%s: a TPM was there: %v; the next setup:\n%s", what, before != "", made)
			}
			if after := eksOf(profile); after == "" || before != "" && after != before {
				t.Errorf("%s: the EKs were %q, are %q", what, before, after)
			}
			if !strings.Contains(harness.Read(t, mark), `"done":`) {
				t.Errorf("%s: the record says %s", what, harness.Read(t, mark))
			}
		}
	}
	if killed < 5 || whole == 0 || whole == killed {
		t.Errorf("killed %d times, %d of them with the TPM there; want both sides of the commit", killed, whole)
	}
}

// eksOf are the endorsement keys of a profile's TPM, "" if it has none.
func eksOf(profile string) string {
	out, err := exec.Command(ours("swtpm"), "state", "inspect", "--ek", profile).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// looksThere reports whether swtpm_setup finds an existing TPM. It
// looks before it reads its configuration, which is missing.
func looksThere(t *testing.T, v version, state string) bool {
	t.Helper()
	if _, err := os.Stat(state); err != nil {
		return false
	}
	args := append([]string{"--tpm-state", state, "--not-overwrite", "--config", "/nonexistent"}, v.options()...)
	code, out, _ := runCmd(t, exec.Command(ours("swtpm_setup"), args...))
	if (code == 0) != strings.Contains(out, "Not overwriting existing state file.") {
		t.Errorf("swtpm_setup --not-overwrite: exit code %d, %q", code, out)
	}
	return code == 0
}

// wantManufactured checks that a copy of the TPM, if it is locked, has
// what is made last: the lock on its NV indices. It returns what is stored then.
func wantManufactured(t *testing.T, v version, state, what string) string {
	t.Helper()
	dir := filepath.Join(harness.TempDir(t), "copy")
	if err := os.CopyFS(dir, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	e := start(t, setup{tpm: v, state: dir})
	defer e.Kill(t)
	c := e.control(t)
	defer func() { _ = c.Close() }()
	if err := c.Init(0); err != nil {
		t.Errorf("%s: INIT = %v", what, err)
		return ""
	}
	stored := harness.Read(t, filepath.Join(dir, v.file()))
	ch := e.open(t, v)
	ch.withStartup(t)
	if v == v20 { // the public area: attributes with WRITELOCKED
		for _, index := range []string{"01c0000a", "01c08000"} {
			rsp, err := ch.transmit("8001 0000000e 00000169 " + index)
			if err != nil || !strings.Contains(fmt.Sprintf("%x", rsp), index+"000b62072801") {
				t.Errorf("%s: NV index %s = %x, %v", what, index, rsp, err)
			}
		}
		return stored
	}
	// The permanent flags: nvLocked is the 16th byte after the tag.
	rsp, err := ch.transmit("00c1 00000016 00000065 00000004 00000004 00000108")
	if err != nil || len(rsp) != 10+4+22 || rsp[10+4+2+15] == 0 {
		t.Errorf("%s: permanent flags = %x, %v", what, rsp, err)
	}
	return stored
}
