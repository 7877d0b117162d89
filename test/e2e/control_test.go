package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// hostileText changes a terminal's colours, title and direction, and rings its bell.
const hostileText = "\x1b[31m\x1b]0;owned\a\u009b2J\u202etxt\r\b\x7f\xff"

// cleanText checks that out is UTF-8 and has no control character except newlines.
func cleanText(t *testing.T, what, out string) {
	t.Helper()
	bad := strings.IndexFunc(out, func(r rune) bool {
		return r != '\n' && (unicode.IsControl(r) || r == 0x202e || r == unicode.ReplacementChar)
	})
	if bad >= 0 {
		t.Errorf("%s: %q has a control character", what, out[max(0, bad-100):min(len(out), bad+40)])
	}
}

// TestNoControlCharacters checks that no program prints control characters, with hostile text in
// every input.
func TestNoControlCharacters(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	named := at("x" + hostileText + ".toml")
	write(t, named, []byte(fmt.Sprintf("%q = 1\n[%q]\na = 1\n[tpmstate]\ndir = %[1]q\nmode = %[1]q\n", "k\u001b[1mey", "t\u001b\u009bx")))
	write(t, at("raw.toml"), []byte("x = \""+hostileText+"\"\n[tpmstate\x1b]\n"))
	write(t, at("good"+hostileText+".toml"), []byte("[interface]\nserver = \"unix:/run/swtpm/x\"\n[tpmstate]\ndir = \"/x\\u001b\\u009b\"\n[log]\nprefix = \"\\u001b\"\n"))
	write(t, at("conf"), []byte("create_certs_tool = "+hostileText+"\nactive_pcr_banks = "+hostileText+"\n"))
	write(t, at("options"), []byte("--"+hostileText+"\n"))
	h := hostileText
	calls := [][]string{
		{"swtpm", h}, {"swtpm", "socket", "--" + h}, {"swtpm", "socket", h}, {"swtpm", "--" + h},
		{"swtpm", "socket", "--tpmstate", "dir=" + at(h), "--ctrl", "type=unixio,path=" + at(h+"/c")},
		{"swtpm", "socket", "--tpmstate", h}, {"swtpm", "socket", "--tpmstate", "backend-uri=" + h + "://x", "--print-states"},
		{"swtpm", "socket", "--ctrl", "type=" + h}, {"swtpm", "socket", "--server", "type=tcp,port=" + h}, {"swtpm", "socket", "--flags", h},
		{"swtpm", "socket", "--key", "file=" + at(h)}, {"swtpm", "socket", "--key", "pwdfile=" + at(h) + ",kdf=" + h}, {"swtpm", "socket", "--log", "file=" + at(h+"/l")},
		{"swtpm", "socket", "--runas", h}, {"swtpm", "socket", "--chroot", at(h)}, {"swtpm", "socket", "--pid", "file=" + at(h+"/p")},
		{"swtpm", "socket", "--seccomp", "action=" + h}, {"swtpm", "socket", "--locality", h}, {"swtpm", "socket", "--migration", h},
		{"swtpm", "socket", "--tpm2", "--profile", "name=" + h, "--tpmstate", "dir=" + dir, "--flags", "not-need-init", "--server", "type=unixio,path=" + at("s")},
		{"swtpm", "chardev", "--chardev", at(h)}, {"swtpm", "cuse", "--name", h}, {"swtpm", "socket", "--print-states", "--tpmstate", "dir=" + at(h)},
		{"swtpm", "run", h}, {"swtpm", "run", named}, {"swtpm", "run", "--" + h}, {"swtpm", "run", "--instance", h, at("good" + h + ".toml")},
		{"swtpm", "check", h, named, at("raw.toml"), at("good" + h + ".toml"), at(h)},
		{"swtpm", "show", named}, {"swtpm", "show", at("good" + h + ".toml")}, {"swtpm", "show", "--json", at("good" + h + ".toml")},
		{"swtpm", "doctor", named, at("good" + h + ".toml"), h}, {"swtpm", "doctor", "--json", named, at("good" + h + ".toml")},
		{"swtpm", "doctor", "--", "socket", "--tpmstate", "dir=" + at(h)}, {"swtpm", "import", "--", "socket", "--tpmstate", "dir=" + at(h), "--ctrl", "type=unixio,path=" + at(h)},
		{"swtpm", "import", "--", "socket", "--" + h}, {"swtpm", "completion", h}, {"swtpm", "state", h}, {"swtpm", "state", "inspect", h},
		{"swtpm", "state", "inspect", "--tpmstate", "dir=" + at(h)}, {"swtpm", "state", "verify", named}, {"swtpm", "state", "import", "--tpmstate", "dir=" + dir, at(h)},
		{"swtpm", "state", "export", "--tpmstate", "dir=" + dir, at(h + "/x")}, {"swtpm", "state", "rekey", "--new-key", h, "--tpmstate", "dir=" + dir},
		{"swtpm_ioctl", h}, {"swtpm_ioctl", "--" + h}, {"swtpm_ioctl", "--unix", at(h), "-i"}, {"swtpm_ioctl", "--tcp", h, "-c"}, {"swtpm_ioctl", "-c", at(h)},
		{"swtpm_ioctl", "--load", h, at(h), "--unix", at("c")}, {"swtpm_ioctl", "--load", "permanent", at(h), "--tcp", ":1"}, {"swtpm_ioctl", "-l", h, "--unix", at("c")},
		{"swtpm_bios", h}, {"swtpm_bios", "--" + h}, {"swtpm_bios", "--unix", at(h)}, {"swtpm_bios", "--tpm-device", at(h)}, {"swtpm_bios", "--tcp", h},
		{"swtpm_cert", h}, {"swtpm_cert", "--" + h}, {"swtpm_cert", "--pubkey", at(h)}, {"swtpm_cert", "--signkey", at(h), "--issuercert", at(h), "--pubkey", at(h)},
		{"swtpm_cert", "--signkey-pwd", "file:" + at(h)}, {"swtpm_cert", "--signkey-pwd", "env:" + h}, {"swtpm_cert", "--days", h}, {"swtpm_cert", "--subject", h, "--modulus", "ff"},
		{"swtpm_localca", h}, {"swtpm_localca", "--" + h}, {"swtpm_localca", "--configfile", at(h)}, {"swtpm_localca", "--type", h, "--ek", "aa"},
		{"swtpm_localca", "--type", "ek", "--ek", h, "--dir", at(h), "--configfile", at("conf"), "--optsfile", at("options"), "--logfile", at(h + "/l")},
		{"swtpm_setup", h}, {"swtpm_setup", "--" + h}, {"swtpm_setup", "--tpm2", "--tpmstate", at(h)}, {"swtpm_setup", "--tpm2", "--tpm-state", "dir://" + at(h), "--config", at(h)},
		{"swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", at("conf"), "--create-ek-cert", "--pcr-banks", h, "--vmid", h, "--logfile", at(h + "/l")},
		{"swtpm_setup", "--tpm2", "--tpmstate", dir, "--pwdfile", at(h)}, {"swtpm_setup", "--tpm2", "--tpmstate", dir, "--keyfile", at(h), "--cipher", h}, {"swtpm_setup", named},
		{"swtpm_setup", "--tpm2", "--profile-name", h, "--tpmstate", dir, "--config", at("conf")}, {"swtpm_setup", "--tpm", h, "--tpm2", "--tpmstate", dir},
	}
	for _, c := range calls {
		cmd := exec.Command(ours(c[0]), c[1:]...)
		cmd.Dir = dir
		cmd.Env = append(noSleep(), "TPM_PATH="+h, "XDG_CONFIG_HOME="+at(h), "HOME="+at(h), "NOTIFY_SOCKET="+h, "LISTEN_FDNAMES="+h, "TMPDIR="+dir)
		cmd.Stdin = nil
		_, stdout, stderr := runCmd(t, cmd)
		cleanText(t, fmt.Sprintf("%q: stdout", c), stdout)
		cleanText(t, fmt.Sprintf("%q: stderr", c), stderr)
	}
}

// TestInputFiles checks that every program refuses FIFOs, endless devices and the like as input
// files, and ends.
func TestInputFiles(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	fifo, zero := filepath.Join(dir, "fifo.toml"), "/dev/zero"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	state := "dir=" + dir
	for _, trap := range []string{fifo, zero} {
		for _, c := range [][]string{
			{"swtpm", "check", trap}, {"swtpm", "show", "--instance", "x", trap}, {"swtpm", "doctor", trap}, {"swtpm", "run", trap}, {"swtpm", "state", "inspect", trap},
			{"swtpm", "state", "import", "--tpmstate", state, trap}, {"swtpm", "state", "import", "--passphrase-file", trap, "--tpmstate", state, trap},
			{"swtpm", "state", "inspect", "--tpmstate", state, "--key", "file=" + trap}, {"swtpm", "state", "rekey", "--tpmstate", state, "--new-key", "pwdfile=" + trap},
			{"swtpm", "socket", "--tpm2", "--tpmstate", state, "--ctrl", "type=unixio,path=" + dir + "/c", "--key", "pwdfile=" + trap},
			{"swtpm", "socket", "--tpm2", "--tpmstate", state, "--ctrl", "type=unixio,path=" + dir + "/c", "--migration-key", "file=" + trap},
			{"swtpm", "socket", "--tpm2", "--tpmstate", state, "--ctrl", "type=unixio,path=" + dir + "/c", "--profile", "file=" + trap},
			{"swtpm_ioctl", "--tcp", ":1", "--load", "permanent", trap},
			{"swtpm_cert", "--type", "ek", "--pubkey", trap, "--signkey", trap, "--issuercert", trap}, {"swtpm_cert", "--signkey-pwd", "file:" + trap},
			{"swtpm_localca", "--type", "ek", "--ek", "aabb", "--configfile", trap}, {"swtpm_localca", "--type", "ek", "--ek", "aabb", "--configfile", "/dev/null", "--optsfile", trap},
			{"swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", trap}, {"swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", "/dev/null", "--keyfile", trap},
			{"swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", "/dev/null", "--pwdfile", trap}, {"swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", "/dev/null", "--profile-file", trap},
			{"swtpm_setup", trap},
		} {
			cmd := exec.Command(ours(c[0]), c[1:]...)
			cmd.Env = noSleep()
			code, stdout, stderr := runCmd(t, cmd) // fails if it does not end
			if code <= 0 {
				t.Errorf("%q: exit code %d, want an error\n%s%s", c, code, stdout, stderr)
			}
		}
	}
}

// TestReadersEndAtOnce checks that SIGINT and SIGTERM end a verb which only reads, also while it
// waits for input that no process writes.
func TestReadersEndAtOnce(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	good := filepath.Join(dir, "good.toml")
	write(t, good, []byte("[interface]\nserver = \"unix:"+dir+"/d\"\n[tpmstate]\ndir = \""+dir+"\"\n[key]\nfd = 0\n"))
	for _, c := range [][]string{
		{"check", "/dev/stdin"}, {"show", "--instance", "x", "/dev/stdin"}, {"doctor", "/dev/stdin"}, {"doctor", good},
		{"state", "inspect", "--tpmstate", "dir=" + dir, "--key", "fd=0"}, {"state", "verify", "--tpmstate", "dir=" + dir, "--key", "pwdfd=0"},
	} {
		for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM} {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(ours("swtpm"), c...)
			cmd.Stdin = r
			p := harness.Start(t, cmd)
			_ = r.Close()
			if err := harness.Until(func() bool { return p.Ended() || sleepsIn(p.Cmd.Process.Pid) }); err != nil {
				t.Errorf("%q does not come to wait: %v", c, err)
			}
			_ = cmd.Process.Signal(sig)
			p.Wait(t)
			if code := cmd.ProcessState.ExitCode(); code != 128+int(sig) && code != 1 { // 1 if it has not waited
				t.Errorf("%q at %v: %v", c, sig, cmd.ProcessState)
			}
			_ = w.Close()
		}
	}
}

// sleepsIn reports whether all threads of a process waited at one moment.
func sleepsIn(pid int) bool {
	before, ok := sleeping(pid)
	if !ok || len(before) < 3 {
		return false
	}
	after, ok := sleeping(pid)
	return ok && maps.Equal(before, after)
}

// sleeping returns how often each thread of a process has begun to wait. It returns false if one
// does not wait.
func sleeping(pid int) (waits map[string]string, ok bool) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return nil, false
	}
	waits = map[string]string{}
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "\nState:\tS") {
			return nil, false
		}
		_, waits[path], _ = strings.Cut(string(b), "voluntary_ctxt_switches:")
	}
	return waits, true
}
