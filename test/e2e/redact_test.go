package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// The secrets of TestRedact. None has a zero byte, so that each can be found where it is not
// blanked.
const (
	ownerPassword = "0wner-passw0rd"
	keyPassword   = "k3y-passw0rd"
	sealPassword  = "sea1-passw0rd"
	sealedSecret  = "what-is-sea1ed-in-the-TPM"
	nvPassword    = "nv-passw0rd"
	nvSecret      = "what-is-kept-in-NV-memory"
)

// toolsSession uses every secret through tpm2-tools, in a directory of its own.
const toolsSession = `set -eu
flush() { tpm2_flushcontext -t -Q; tpm2_flushcontext -l -Q; tpm2_flushcontext -s -Q; }
printf %s "$SEALED" >sealed; printf %s "$NV" >nv
tpm2_changeauth -Q -c owner "$OWNERPW"
tpm2_createprimary -Q -C o -P "$OWNERPW" -p "$KEYPW" -c primary; flush
tpm2_create -Q -C primary -P "$KEYPW" -p "$SEALPW" -i sealed -u pub -r priv; flush
tpm2_load -Q -C primary -P "$KEYPW" -u pub -r priv -c object; flush
test "$(tpm2_unseal -c object -p "$SEALPW")" = "$SEALED"; flush
tpm2_nvdefine -Q 0x1500016 -C o -P "$OWNERPW" -p "$NVPW" -s 25 -a 'authread|authwrite'; flush
tpm2_nvwrite -Q 0x1500016 -C 0x1500016 -P "$NVPW" -i nv; flush
test "$(tpm2_nvread 0x1500016 -C 0x1500016 -P "$NVPW" -s 25)" = "$NV"; flush
tpm2_pcrextend 10:sha256=1111111111111111111111111111111111111111111111111111111111111111
tpm2_pcrread sha256:10 >/dev/null
`

// TestRedact checks that no secret that tpm2-tools have sent is in a redacted recording, and that
// all are in another one.
func TestRedact(t *testing.T) {
	t.Parallel()
	harness.Need(t, "tshark", "tshark")
	tools := filepath.Dir(harness.Need(t, "tpm2_unseal", "tpm2-tools"))
	for _, redacted := range []bool{false, true} {
		t.Run(fmt.Sprintf("redact=%v", redacted), func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			file := filepath.Join(dir, "f.pcapng")
			port := harness.FreePort(t)
			e := launch(t, setup{tpm: v20, nodata: true, args: []string{
				"--flags", "startup-clear", "--server", fmt.Sprintf("type=tcp,port=%d", port),
				"--ctrl", fmt.Sprintf("type=tcp,port=%d", port+1), "--pcap", fmt.Sprintf("file=%s,redact=%v", file, redacted),
			}})
			e.awaitTCP(t, port)
			cmd := exec.Command("sh", "-c", toolsSession)
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + tools + ":/usr/bin:/bin", fmt.Sprintf("TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=%d", port),
				"OWNERPW=" + ownerPassword, "KEYPW=" + keyPassword, "SEALPW=" + sealPassword, "SEALED=" + sealedSecret, "NVPW=" + nvPassword, "NV=" + nvSecret}
			if code, out, errout := runCmd(t, cmd); code != 0 {
				t.Fatalf("tpm2-tools: exit code %d\n%s%s", code, out, errout)
			}
			e.terminate(t)

			recording := harness.Read(t, file)
			for _, secret := range []string{ownerPassword, keyPassword, sealPassword, sealedSecret, nvPassword, nvSecret} {
				if strings.Contains(recording, secret) == redacted {
					t.Errorf("%q in the recording: %v", secret, !redacted)
				}
			}
			// Harmless fields are present either way, and the dissector can decode the recording.
			for _, public := range []string{strings.Repeat("\x11", 32), "\x01\x50\x00\x16\x00\x0b"} {
				if !strings.Contains(recording, public) {
					t.Errorf("%x is not in the recording", public)
				}
			}
			seen := map[string]bool{}
			for _, f := range frames(t, file) {
				if f.payload != "" && f.code == "" {
					t.Errorf("tshark finds no code in %.60s", f.payload)
				}
				seen[f.code] = true
			}
			for _, code := range []string{"0x00000131", "0x00000153", "0x00000157", "0x0000015e", "0x0000012a", "0x00000137", "0x0000014e", "0x00000182", "0x00000000"} {
				if !seen[code] {
					t.Errorf("tshark sees no %s", code)
				}
			}
		})
	}
}

// TestRedactPlain checks the same with commands that do not encrypt their parameters, and with
// random numbers, for both versions.
func TestRedactPlain(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for _, redacted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/redact=%v", v, redacted), func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(harness.TempDir(t), "f.pcapng")
				e := start(t, setup{tpm: v, args: []string{"--flags", "startup-clear", "--pcap", fmt.Sprintf("file=%s,redact=%v", file, redacted)}})
				c := e.open(t, v)
				var rsp []byte
				for _, cmd := range secretCommands[v] {
					var err error
					if rsp, err = c.transmit(cmd); err != nil {
						t.Fatalf("%s: %v", cmd, err)
					}
				}
				e.terminate(t)
				b, _ := fromHex(plainSecret)
				random := rsp[len(rsp)-8:]
				recording := harness.Read(t, file)
				for _, s := range []string{string(b), string(random)} {
					if strings.Contains(recording, s) == redacted {
						t.Errorf("%x in the recording: %v", s, !redacted)
					}
				}
				if redacted && strings.Contains(recording, "\x5e\xc1\xe7") {
					t.Error("a part of the secret is in the recording")
				}
			})
		}
	}
}
