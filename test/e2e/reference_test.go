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

// encryptions are the encryptions of the state that both implementations have.
var encryptions = map[string][]string{
	"plain":    nil,
	"aes-128":  {"--key", "file=testdata/key128.hex,mode=aes-128-cbc"},
	"aes-256":  {"--key", "file=testdata/key256.hex,mode=aes-256-cbc"},
	"pbkdf2":   {"--key", "pwdfile=testdata/passphrase,kdf=pbkdf2"},
	"sha512":   {"--key", "pwdfile=testdata/passphrase,kdf=sha512,mode=aes-256-cbc"},
	"aes, mig": {"--key", "file=testdata/key128.hex", "--migration-key", "file=testdata/migration.hex"},
}

// TestStateHops checks that ours and the reference continue with the state that the other has
// written last, in both directions.
func TestStateHops(t *testing.T) {
	t.Parallel()
	for name, args := range encryptions {
		for _, v := range both {
			if !v.runs(name == "aes, mig") {
				continue
			}
			for _, firstOurs := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s %s, ours first %t", name, v, firstOurs), func(t *testing.T) {
					t.Parallel()
					state := harness.TempDir(t)
					isOurs := firstOurs
					for hop := range uint64(3) {
						program := ours("swtpm")
						if !isOurs {
							program = harness.Reference(t)
						}
						e := start(t, setup{program: program, tpm: v, state: state, args: args})
						ch := e.power(t, v)
						if hop == 0 {
							ch.define(t)
						} else if err := ch.bump(hop + 1); err != nil {
							t.Fatalf("hop %d: %v", hop, err)
						}
						if n := ch.number(t); n != hop+1 {
							t.Fatalf("hop %d: the number is %d, want %d", hop, n, hop+1)
						}
						_ = ch.Close()
						e.terminate(t)
						isOurs = !isOurs
					}
				})
			}
		}
	}
}

// TestStateBlobHops checks that permanent and volatile blobs move between ours and the reference
// with either swtpm_ioctl, plain and encrypted with the migration key.
func TestStateBlobHops(t *testing.T) {
	t.Parallel()
	migration := map[string][]string{
		"plain":         nil,
		"migration key": {"--migration-key", "file=testdata/migration.hex"},
		"pwd, 256 bit":  {"--migration-key", "pwdfile=testdata/passphrase,mode=aes-256-cbc"},
	}
	for name, args := range migration {
		for _, v := range both {
			if !v.runs(name == "migration key") {
				continue
			}
			for _, fromOurs := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s %s, from ours %t", name, v, fromOurs), func(t *testing.T) {
					t.Parallel()
					from, to := ours("swtpm"), harness.Reference(t)
					save, load := harness.Need(t, "swtpm_ioctl", "swtpm-tools"), ours("swtpm_ioctl")
					if !fromOurs {
						from, to, save, load = to, from, load, save
					}
					src := start(t, setup{program: from, tpm: v, args: args})
					ch := src.power(t, v)
					ch.define(t)
					ch.ok(t, extend[v])
					pcr := pcrValue(ch.ok(t, readPCR[v]))
					_ = ch.Close()
					dst := start(t, setup{program: to, tpm: v, args: args})
					for _, blob := range []string{"permanent", "volatile"} {
						file := filepath.Join(src.dir, blob)
						mustRun(t, save, "--unix", src.ctrl, "--save", blob, file)
						mustRun(t, load, "--unix", dst.ctrl, "--load", blob, file)
					}
					mustRun(t, load, "--unix", dst.ctrl, "-i")
					ch = dst.open(t, v) // no TPM_Startup: the TPM goes on where it was
					if n := ch.number(t); n != 1 {
						t.Errorf("the number is %d, want 1", n)
					}
					if got := pcrValue(ch.ok(t, readPCR[v])); got != pcr {
						t.Errorf("PCR 10 is %s, want %s", got, pcr)
					}
				})
			}
		}
	}
}

// The commands that extend PCR 10 and read it.
//
// Source: TPM Main Part 3, TPM_Extend, TPM_PcrRead; TPM 2.0 Library Part 3.
var (
	extend = map[version]string{
		v12: "00c1 00000022 00000014 0000000a 1111111111111111111111111111111111111111",
		v20: "8002 00000041 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 000b" +
			"2222222222222222222222222222222222222222222222222222222222222222",
	}
	readPCR = map[version]string{
		v12: "00c1 0000000e 00000015 0000000a",
		v20: "8001 00000014 0000017e 00000001 000b 03 000400",
	}
)

// pcrValue is the digest at the end of a response to readPCR.
func pcrValue(rsp []byte) string { return fmt.Sprintf("%x", rsp[max(0, len(rsp)-20):]) }

// TestIoctlOfBoth checks that the reference's swtpm_ioctl prints the same with ours as with the
// reference, and that our swtpm_ioctl does so with both.
func TestIoctlOfBoth(t *testing.T) {
	t.Parallel()
	theirs := harness.Need(t, "swtpm_ioctl", "swtpm-tools")
	for _, v := range both {
		for _, emu := range []string{ours("swtpm"), harness.Reference(t)} {
			t.Run(string(v)+" "+filepath.Dir(emu), func(t *testing.T) {
				t.Parallel()
				e := start(t, setup{program: emu, tpm: v, args: encryptions["aes-128"]})
				// The two tools take turns, because each must find the same.
				for _, tool := range []string{theirs, ours("swtpm_ioctl")} {
					ioctlTour(t, tool, e, v)
				}
				mustRun(t, theirs, "--unix", e.ctrl, "-s")
				if code := e.Wait(t); code != 0 {
					t.Errorf("after SHUTDOWN: exit code %d, want 0", code)
				}
			})
		}
	}
}

// ioctlTour sends most requests and checks the output of the tool.
func ioctlTour(t *testing.T, tool string, e *emulator, v version) {
	t.Helper()
	call := func(want string, args ...string) {
		t.Helper()
		if got := mustRun(t, tool, append([]string{"--unix", e.ctrl}, args...)...); got != want {
			t.Errorf("%s %v = %q, want %q", tool, args, got, want)
		}
	}
	call("", "--stop")
	call("", "-i")
	ch := e.open(t, v)
	ch.ok(t, ch.startup())
	_ = ch.Close()
	call("ptm configuration flags: 0x1\n", "-g")
	call("", "-l", "3")
	call("tpmEstablished is 0\n", "-e")
	call("", "-h", "measured")
	call("tpmEstablished is 1\n", "-e")
	call("", "-r", "3")
	call("tpmEstablished is 0\n", "-e")
	call("", "-l", "0")
	call("", "-v")
	volatile := filepath.Join(e.dir, "state", strings.Replace(v.file(), "permall", "volatilestate", 1))
	if err := os.Remove(volatile); err != nil { // else the next INIT goes on from there
		t.Errorf("%s -v has stored nothing: %v", tool, err)
	}
	file := filepath.Join(e.dir, "savestate")
	call("", "--save", "savestate", file)
	if fi, err := os.Stat(file); err != nil || fi.Size() != 0 {
		t.Errorf("savestate: %v, %v; want an empty file", fi, err)
	}
	if code, _, stderr := runCmd(t, exec.Command(tool, "--unix", e.ctrl, "-b", "3000")); code == 0 || stderr != "TPM result from PTM_SET_BUFFERSIZE: 0xa\n" {
		t.Errorf("%s -b 3000 while the TPM is on: exit code %d, %q", tool, code, stderr)
	}
	call("", "--stop")
}
