package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/test/harness"
)

// measuredSecrets are commands that measure the secret or use it in a policy over PCRs: the ledger
// has their digests and results.
var measuredSecrets = map[version][]string{
	v12: {
		sha1Start12,
		"00c1 0000001a 000000a3 0000000a 00000008" + plainSecret, // SHA1CompleteExtend
		"00c1 00000022 00000014 0000000a" + extended12,
	},
	v20: {
		"8002 00000025 0000013c 0000000a 00000009 40000009 0000 00 0000 0008" + plainSecret,                                                   // PCR_Event
		"8001 0000000e 00000186 0000 0010",                                                                                                    // HashSequenceStart
		"8002 00000025 0000015c 80000000 00000009 40000009 0000 00 0000 0008" + plainSecret,                                                   // SequenceUpdate
		"8002 00000032 00000185 0000000a 80000000 00000012 40000009 0000 00 0000 40000009 0000 00 0000 0008" + plainSecret,                    // EventSequenceComplete
		"8002 00000035 0000012a 40000001 00000009 40000009 0000 00 0000 0008" + plainSecret + "000e 01800002 000b 02060044 0000 0020",         // NV_DefineSpace
		"8002 00000031 00000136 01800002 01800002 00000011 40000009 0000 00 0008" + plainSecret + "0008" + plainSecret,                        // NV_Extend
		"8001 0000002b 00000176 40000007 40000007 0010 000102030405060708090a0b0c0d0e0f 0000 01 0010 000b",                                    // StartAuthSession
		"8001 00000020 0000017f 03000000 0008" + plainSecret + "00000001 000b 03 800000",                                                      // PolicyPCR
		"8001 00000018 0000017f 03000000 0000 00000001 000b 03 800000",                                                                        // PolicyPCR
		"8002 00000041 00000151 40000001 03000000 00000011 40000009 0000 00 0008" + plainSecret + "0000 0008" + plainSecret + "0000 00000000", // PolicySecret
		"8002 0000001b 0000015e 80000000 00000009 03000000 0000 01 0000",                                                                      // Unseal
		"8002 00000023 0000015e 80000000 00000011 03000000 0000 01 0008" + plainSecret,                                                        // Unseal
	},
}

const extended12 = "1111111111111111111111111111111111111111"

// TestLedgerSecrets checks that no secret of the tests of redaction is in the boot ledger or the log.
func TestLedgerSecrets(t *testing.T) {
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			m := newRecorded(t, v, false)
			for _, cmd := range append(measuredSecrets[v], secretCommands[v]...) {
				if _, err := m.data.transmit(cmd); err != nil {
					t.Fatalf("%s: %v", cmd, err)
				}
			}
			if err := m.ctrl.Stop(); err != nil {
				t.Fatal(err)
			}
			b := awaitEnd(t, filepath.Join(m.dir, "state"), v)
			extends := 0
			for _, r := range b.Records {
				if r.Kind == ledger.KindExtend {
					extends++
				}
			}
			if want := map[version]int{v12: 2, v20: 3}[v]; extends != want {
				t.Errorf("%d measurements, want %d", extends, want)
			}
			secret, _ := fromHex(plainSecret)
			noSecrets(t, filepath.Join(m.dir, "state"), m.Out.String(), string(secret[:3]), plainSecret)
		})
	}
}

// TestLedgerToolsSecrets checks the same for tpm2-tools, with passwords, sealed data and NV
// indexes.
func TestLedgerToolsSecrets(t *testing.T) {
	harness.Need(t, "tpm2_unseal", "tpm2-tools")
	t.Parallel()
	p := startProfiled(t, "file = \"log\"\nlevel = 5\n[ledger]\nkeep = \"boots\"\n")
	if err := os.Symlink(p.ctrl, p.data+".ctrl"); err != nil { // the TCTI expects it there
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", toolsSession)
	cmd.Dir = harness.TempDir(t)
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+p.data,
		"OWNERPW="+ownerPassword, "KEYPW="+keyPassword, "SEALPW="+sealPassword, "SEALED="+sealedSecret, "NVPW="+nvPassword, "NV="+nvSecret)
	if code, out, errout := runCmd(t, cmd); code != 0 {
		t.Fatalf("tpm2-tools: exit code %d\n%s%s", code, out, errout)
	}
	p.terminate(t)
	awaitEnd(t, filepath.Join(p.dir, "state"), v20)
	noSecrets(t, filepath.Join(p.dir, "state"), "", ownerPassword, keyPassword, sealPassword, sealedSecret, nvPassword, nvSecret)
}

// awaitEnd waits until the last boot is written to its end.
func awaitEnd(t *testing.T, dir string, v version) (b *ledger.Boot) {
	t.Helper()
	err := harness.Until(func() bool {
		b = lastBoot(dir, v)
		return b != nil && len(b.Records) > 0 && b.Records[len(b.Records)-1].Kind == ledger.KindEnd
	})
	if err != nil {
		t.Fatalf("the last boot is %+v", b)
	}
	return b
}

// noSecrets checks that no secret is in a file of the ledger or in the log.
func noSecrets(t *testing.T, dir, log string, secrets ...string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.boot-*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no ledger, %v", err)
	}
	for _, s := range secrets {
		if strings.Contains(log, s) {
			t.Errorf("%q is in the log", s)
		}
		for _, name := range names {
			if strings.Contains(harness.Read(t, name), s) {
				t.Errorf("%q is in %s", s, name)
			}
		}
	}
}
