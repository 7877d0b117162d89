package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// controlled is the expected output of testdata/control.c, which differs between the versions.
var controlled = map[version]string{
	v12: `GET_CAPABILITY 0x0 0x17fff
GET_CONFIG 0x0 0x0
SET_BUFFERSIZE 0x0 1
GET_INFO 0x0 {"TPMSpecification":{"family":"1.2","level":2,"revision":116}}
INIT 0x0
SET_LOCALITY 0x0
HASH_START 0x26
HASH_DATA 0x1a
HASH_END 0x1a
GET_TPMESTABLISHED 0x0 0
RESET_TPMESTABLISHED 0x0
CANCEL_TPM_CMD 0x9
STORE_VOLATILE 0x0
GET_STATEBLOB 0x0 0x0 1 1
STOP 0x0
LOCK_STORAGE 0x0
SET_STATEBLOB 0x0
INIT 0x0
SHUTDOWN 0x0
`,
	v20: `GET_CAPABILITY 0x0 0x1ffff
GET_CONFIG 0x0 0x0
SET_BUFFERSIZE 0x0 1
GET_INFO 0x0 {"TPMSpecification":{"family":"2.0","level":0,"revision":164}}
INIT 0x0
SET_LOCALITY 0x0
HASH_START 0x0
HASH_DATA 0x0
HASH_END 0x0
GET_TPMESTABLISHED 0x0 1
RESET_TPMESTABLISHED 0x0
CANCEL_TPM_CMD 0x0
STORE_VOLATILE 0x0
GET_STATEBLOB 0x0 0x0 1 1
STOP 0x0
LOCK_STORAGE 0x0
SET_STATEBLOB 0x0
INIT 0x0
SHUTDOWN 0x0
`,
}

// TestHeaderClient checks that a C program with our swtpm/tpm_ioctl.h controls an
// emulator: it uses every structure of the header that sockets have.
func TestHeaderClient(t *testing.T) {
	program := filepath.Join(t.TempDir(), "control")
	mustRun(t, harness.Need(t, "gcc", "gcc"), "-Wall", "-Wextra", "-Werror", "-I", "../../include", "-o", program, "testdata/control.c")
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			e := start(t, setup{tpm: v, nodata: true})
			code, out, complaint := runCmd(t, exec.Command(program, e.ctrl))
			if code != 0 || out != controlled[v] {
				t.Errorf("exit code %d, want 0; it prints\n%s%s\nwant\n%s", code, out, complaint, controlled[v])
			}
			if code := e.Wait(t); code != 0 {
				t.Errorf("exit code %d after SHUTDOWN", code)
			}
		})
	}
}

// TestManOfHeader checks that swtpm_ioctls(3) names everything in the header.
func TestManOfHeader(t *testing.T) {
	page := strings.ReplaceAll(harness.Read(t, "../../man/swtpm_ioctls.3"), `\-`, "-")
	header, err := os.ReadFile("../../include/swtpm/tpm_ioctl.h")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(header)) {
		words := strings.FieldsFunc(line, func(r rune) bool { return r != '_' && (r < '0' || r > 'z' || r > '9' && r < 'A' || r > 'Z' && r < 'a') })
		for _, w := range words {
			for _, prefix := range []string{"PTM_", "CMD_", "SWTPM_INFO_", "ptm_"} {
				if strings.HasPrefix(w, prefix) && w != prefix && !strings.Contains(page, w) {
					t.Errorf("the page does not name %s", w)
				}
			}
		}
	}
}
