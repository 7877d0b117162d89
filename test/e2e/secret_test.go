package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestNoSecretOutside checks that a key, a passphrase and the derived keys are in no place that
// other processes can read: the command line, the environment, the log at its highest level, the
// memory as another user or the same user reads it, a core dump. Root finds the key only in
// memory that core dumps leave out.
func TestNoSecretOutside(t *testing.T) {
	needRoot(t, "runs as one user, looks as another, and reads the memory itself")
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	phrase := "phrase-" + hex.EncodeToString(key[:8]) // of the key of migration

	dir := harness.TempDir(t)
	keyFile, phraseFile, state := filepath.Join(dir, "key"), filepath.Join(dir, "phrase"), filepath.Join(dir, "state")
	write(t, keyFile, []byte(hex.EncodeToString(key)))
	write(t, phraseFile, []byte(phrase))
	mkdir(t, state)
	for _, path := range []string{state, keyFile, phraseFile} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, setup{tpm: v20, state: state, args: []string{
		"--key", "file=" + keyFile + ",format=hex,mode=aes-256-cbc,remove=true",
		"--migration-key", "pwdfile=" + phraseFile + ",mode=aes-256-cbc,kdf=pbkdf2,remove=true",
		"--log", "level=20,file=" + filepath.Join(dir, "loud"),
		"--runas", strconv.Itoa(nobody)},
		// The directory of the sockets must belong to that user.
		wrap: []string{"sh", "-c", `for a; do case $a in *path=*/c) d=${a#*path=}; chown ` + strconv.Itoa(nobody) + ` "${d%/c}" "$0";; esac; done; exec "$@"`, dir}})
	c := e.power(t, v20)
	c.define(t)
	for n := range uint64(5) {
		if err := c.bump(n + 1); err != nil {
			t.Fatal(err)
		}
	}
	proc := "/proc/" + strconv.Itoa(e.Cmd.Process.Pid)

	secrets := secretForms(key, phrase)
	for _, place := range []string{proc + "/cmdline", proc + "/environ", filepath.Join(dir, "loud"), e.log} {
		b, err := os.ReadFile(place)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for name, s := range secrets {
			if bytes.Contains(b, s) {
				t.Errorf("%s has %s", place, name)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "loud")); err != nil || len(b) < 1000 {
		t.Errorf("the loud log has %d bytes (%v); it should be libtpms's too", len(b), err)
	}

	refuseOthers(t, proc)

	scan(t, proc, secrets)

	// A crash leaves no core, whatever the limit of the parent: the kernel reports to the parent
	// whether there was one.
	_ = e.Cmd.Process.Signal(unix.SIGSEGV)
	e.Wait(t)
	if ws, ok := e.Cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.CoreDump() || !ws.Signaled() && ws.ExitStatus() == 0 {
		t.Errorf("after SIGSEGV: %v, core dumped: %v", e.Cmd.ProcessState, ok && ws.CoreDump())
	}
}

// secretForms returns the forms in which a key and a passphrase may be in memory, by name.
func secretForms(key []byte, phrase string) map[string][]byte {
	secrets := map[string][]byte{
		"the key": key, "the key in hex": []byte(hex.EncodeToString(key)),
		"half of the key in hex": []byte(hex.EncodeToString(key)[:32]), "the pass phrase": []byte(phrase),
	}
	for _, pad := range []byte{0x36, 0x5c} { // as HMAC has it
		name := fmt.Sprintf(", xored with %#x", pad)
		secrets["the key"+name], secrets["the pass phrase"+name] = xored(key, pad), xored([]byte(phrase), pad)
	}
	return secrets
}

// refuseOthers checks that neither the process's own user nor another one can read its memory.
func refuseOthers(t *testing.T, proc string) {
	t.Helper()
	for _, uid := range []uint32{nobody, nobody - 1} { // its own user, and another
		for _, file := range []string{"maps", "mem", "environ", "auxv"} {
			cmd := exec.Command("dd", "if="+proc+"/"+file, "bs=1", "count=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "ermission denied") {
				t.Errorf("%s as user %d: %v\n%s", file, uid, err, out)
			}
		}
	}
}

func xored(b []byte, with byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= with
	}
	return out
}

// scan reads all memory of the process whose directory in /proc is proc. The secrets
// may be nowhere but in locked memory that is left out of core dumps.
func scan(t *testing.T, proc string, secrets map[string][]byte) {
	t.Helper()
	smaps, err := os.ReadFile(proc + "/smaps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(proc + "/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var first, last uint64
	var kept int
	var mapping string
	for line := range strings.Lines(string(smaps)) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			first, last, mapping = from, to, strings.TrimSpace(line)
			continue
		}
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		if !ok || !strings.Contains(flags, " rd ") || strings.Contains(mapping, "[v") {
			continue
		}
		for at := first; at < last; at += 1 << 20 {
			b := make([]byte, min(last-at, 1<<20+64)) // the rest: what lies across a border
			n, err := mem.ReadAt(b, int64(at))
			if err != nil {
				continue // reserved, not there
			}
			for name, s := range secrets {
				if !bytes.Contains(b[:n], s) {
					continue
				}
				if strings.Contains(flags, " dd ") && strings.Contains(flags, " lo ") {
					kept++
					continue
				}
				t.Errorf("%s is in memory that a core dump takes: %s", name, mapping)
			}
		}
	}
	if kept == 0 {
		t.Error("the key was not found at all: the search does not work")
	}
}
