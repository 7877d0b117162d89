package systemd_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestCredentialEncrypted checks that a key that is encrypted on disk for this host can be a
// credential, too, and is in no argument, variable or field of the journal, at any log level.
func TestCredentialEncrypted(t *testing.T) {
	const key = "8899aabbccddeeff00112233445566778899aabbccddeeff0011223344556677"
	name := instance(t, profile("clear")+"[key]\ncredential = \"state-key\"\nmode = \"aes-256-cbc\"\n[log]\nlevel = 20\n")
	unit, plain, sealed := service(name), "/run/"+name+".key", "/etc/swtpm/"+name+".cred"
	put(t, plain, 0o600, key+"\n")
	must(t, "systemd-creds", "--with-key=host", "--name=state-key", "encrypt", plain, sealed)
	must(t, "rm", plain)
	if out := must(t, "cat", sealed); strings.Contains(out, key[:16]) {
		t.Fatalf("the credential is not encrypted: %s", out)
	}
	dropIn(t, unit, "[Service]\nLoadCredentialEncrypted=state-key:"+sealed+"\n")
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	if out, _ := in("swtpm", "state", "inspect", "--tpmstate", "dir=/var/lib/swtpm/"+name); !strings.Contains(strings.ToLower(out), "encrypted") {
		t.Errorf("the state is not encrypted:\n%s", out)
	}
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(inside("/proc/" + property(t, unit, "MainPID") + "/" + file))
		if err != nil || len(b) == 0 {
			t.Fatal(len(b), err)
		}
		if strings.Contains(string(b), key[:16]) {
			t.Errorf("the key is in %s", file)
		}
	}
	must(t, "systemctl", "stop", unit)
	must(t, "journalctl", "--sync")
	lines := 0
	for line := range strings.Lines(must(t, "journalctl", "--all", "--output=json", "SWTPM_INSTANCE="+name)) {
		lines++
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		for field, v := range fields {
			if s, _ := v.(string); strings.Contains(strings.ToLower(s), key[:16]) {
				t.Errorf("the key is in %s", field)
			}
		}
	}
	if lines < 5 {
		t.Errorf("the journal has only %d entries", lines)
	}
}
