package systemd_test

import (
	"os"
	"strings"
	"testing"
)

// TestCredential checks that a key that is a credential is in no argument, variable or journal
// entry, and that the state is encrypted with it.
func TestCredential(t *testing.T) {
	const key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	name := instance(t, profile("clear")+"[key]\ncredential = \"state-key\"\nmode = \"aes-256-cbc\"\n[migration-key]\ncredential = \"migration-key\"\nmode = \"aes-256-cbc\"\n")
	unit := service(name)
	put(t, "/etc/swtpm/"+name+".key", 0o600, key+"\n")
	dropIn(t, unit, "[Service]\nLoadCredential=state-key:/etc/swtpm/"+name+".key\nLoadCredential=migration-key:/etc/swtpm/"+name+".key\n")
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(inside("/proc/" + property(t, unit, "MainPID") + "/" + file))
		if err != nil || len(b) == 0 {
			t.Fatal(len(b), err)
		}
		if strings.Contains(string(b), key[:16]) {
			t.Errorf("the key is in %s", file)
		}
	}
	if strings.Contains(journal(t, unit, "export"), key[:16]) {
		t.Error("the key is in the journal")
	}
	must(t, "systemctl", "stop", unit)

	// The key of another TPM: the state is left as it is.
	put(t, "/etc/swtpm/"+name+".key", 0o600, strings.Repeat("7", 64)+"\n")
	before := must(t, "sha256sum", "/var/lib/swtpm/"+name+"/tpm2-00.permall")
	fails(t, "systemctl", "start", unit)
	if after := must(t, "sha256sum", "/var/lib/swtpm/"+name+"/tpm2-00.permall"); after != before {
		t.Error("the state has changed")
	}
	put(t, "/etc/swtpm/"+name+".key", 0o600, key+"\n")
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
}

// TestCredentialMissing checks the message about a credential that the unit does not pass.
func TestCredentialMissing(t *testing.T) {
	name := instance(t, profile("clear")+"[key]\ncredential = \"state-key\"\n")
	fails(t, "systemctl", "start", service(name))
	want := `swtpm: --key: credential "state-key": systemd passed no credentials: give the unit LoadCredential=state-key:PATH or LoadCredentialEncrypted=state-key:PATH`
	awaitJournal(t, service(name), want)
}
