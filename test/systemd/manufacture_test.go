package systemd_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// made is a profile whose TPM is manufactured, with a certificate; ecc is quick.
const made = `[manufacture]
ek = ["secp256r1"]
ek-cert = true
`

// caKey is what an emulator must not see.
const caKey = "/var/lib/swtpm-ca/signkey.pem"

func maker(name string) string { return "swtpm-manufacture@" + name + ".service" }

// TestManufacture checks that the first start manufactures the TPM, whose key has a certificate of
// the CA, and that later starts do not change it. The manufacture reads the key of the CA; the
// emulator cannot, neither in the unit's sandbox nor without it.
func TestManufacture(t *testing.T) {
	name := instance(t, profile("clear")+made)
	unit := service(name)
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	certified(t, name)
	if got := must(t, "stat", "--format=%U:%G %a", "/var/lib/swtpm-ca"); got != "root:swtpm-ca 2770\n" {
		t.Errorf("the directory of the CA is %q, want root:swtpm-ca 2770", got)
	}

	pid := property(t, unit, "MainPID")
	as := []string{"nsenter", "--target=" + pid, "--mount", "--", "setpriv", "--reuid=swtpm", "--regid=swtpm", "--init-groups"}
	must(t, append(as, "ls", "/var/lib/swtpm/"+name)...) // the way there works
	if out := fails(t, append(as, "cat", caKey)...); !strings.Contains(out, "Permission denied") {
		t.Errorf("in the sandbox: %s", out)
	}
	bare := []string{"setpriv", "--reuid=swtpm", "--regid=swtpm"}
	if out := fails(t, append(bare, "--init-groups", "cat", caKey)...); !strings.Contains(out, "Permission denied") {
		t.Errorf("without a sandbox: %s", out)
	}
	must(t, append(bare, "--groups=swtpm-ca", "cat", caKey)...) // the group is all that lacks
	groups := must(t, "sed", "-n", "s/^Groups://p", "/proc/"+pid+"/status")
	if id := strings.Split(must(t, "getent", "group", "swtpm-ca"), ":")[2]; strings.Contains(" "+strings.TrimSpace(groups)+" ", " "+id+" ") {
		t.Errorf("the emulator's groups are %s, with that of the CA, %s", groups, id)
	}

	record := must(t, "cat", "/var/lib/swtpm/"+name+"/.manufactured")
	serial := must(t, "cat", "/var/lib/swtpm-ca/certserial")
	ran := property(t, maker(name), "InvocationID")
	must(t, "systemctl", "restart", unit)
	command(t, dial(t, name), getRandom)
	killed(t, unit)
	command(t, dial(t, name), getRandom)
	if property(t, maker(name), "InvocationID") != ran {
		t.Error("the manufacture ran again at a restart or after a crash")
	}
	must(t, "systemctl", "stop", unit)
	await(t, maker(name), "ActiveState", "inactive")
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	if property(t, maker(name), "InvocationID") == ran {
		t.Error("the manufacture did not run at a new start, where the TPM could be missing")
	}
	if now := must(t, "cat", "/var/lib/swtpm/"+name+"/.manufactured"); now != record {
		t.Errorf("a second start made\n%s\nin place of\n%s", now, record)
	}
	if now := must(t, "cat", "/var/lib/swtpm-ca/certserial"); now != serial {
		t.Errorf("a second start took a serial number: %s, and before %s", now, serial)
	}
	awaitJournal(t, maker(name), "leaving it unchanged")
}

// TestManufactureSocket checks that a socket-activated start manufactures, too, and that the first
// client waits for it.
func TestManufactureSocket(t *testing.T) {
	name := instance(t, passed+made)
	must(t, "systemctl", "start", socket(name), dataSocket(name))
	ioctl(t, name, "-g")
	command(t, dial(t, name), getRandom)
	certified(t, name)
}

// TestManufactureFails checks that a failed manufacture leaves no TPM, that the emulator creates
// none instead, that each unit reports the problem in one line, and that the next start
// manufactures after the fault is repaired.
func TestManufactureFails(t *testing.T) {
	name := instance(t, profile("clear")+made+"config = \"/etc/swtpm/no-such.conf\"\n")
	unit := service(name)
	fails(t, "systemctl", "start", unit)
	must(t, "journalctl", "--sync")
	for u, want := range map[string]string{
		unit:        "the TPM has not been manufactured",
		maker(name): "User swtpm cannot read config file /etc/swtpm/no-such.conf.",
	} {
		out, _ := in("systemctl", "status", "--no-pager", "--full", u)
		if u == unit { // journald may not know the unit of a process that has ended
			out = must(t, "journalctl", "--no-pager", "--output=cat", "SWTPM_INSTANCE="+name)
		}
		if n := strings.Count(out, want); n != 1 {
			t.Errorf("%q is in there %d times, want once:\n%s", want, n, out)
		}
	}
	if got := property(t, unit, "NRestarts"); got != "0" {
		t.Errorf("it was tried again %s times", got)
	}
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear")+made)
	must(t, "systemctl", "start", unit)
	certified(t, name)
}

// TestManufactureKilled checks that a manufacture that is killed, whenever that is, is seen and redone. The emulator
// starts after it, because an existing TPM must not depend on the other unit, and refuses: it makes no TPM of its own.
func TestManufactureKilled(t *testing.T) {
	name := instance(t, profile("clear"))
	unit, state := service(name), "/var/lib/swtpm/"+name
	// The tool for the certificates never ends, so that no kill comes late.
	put(t, "/etc/swtpm/"+name+".sh", 0o755, "#!/bin/sh\nexec sleep infinity\n")
	put(t, "/etc/swtpm/"+name+".conf", 0o644, "create_certs_tool = /etc/swtpm/"+name+".sh\n")
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear")+made+"config = \"/etc/swtpm/"+name+".conf\"\n")
	const before, late = -1, -2 // instead of a time: before the program starts, and in the tool
	for _, wait := range []time.Duration{before, 0, 10, 30, 100, 300, late} {
		_, _ = in("systemctl", "reset-failed", unit, maker(name)) // fails if they are not loaded yet
		if wait == before {
			dropIn(t, maker(name), "[Service]\nExecStartPre=/bin/sleep infinity\n")
		}
		must(t, "systemctl", "start", "--no-block", unit)
		executing := "swtpm-setup"
		if wait < 0 {
			executing = "sleep"
		}
		awaitProgram(t, maker(name), executing)
		time.Sleep(max(wait, 0) * time.Millisecond)
		must(t, "systemctl", "kill", "--signal=KILL", maker(name))
		awaitAny(t, maker(name), "ActiveState", "inactive", "failed")
		awaitAny(t, unit, "ActiveState", "active", "failed")
		if got := property(t, maker(name), "Result"); got != "signal" {
			t.Fatalf("wait %d: the result of the manufacture is %s, want signal\n%s", wait, got, journal(t, maker(name), "short-precise"))
		}
		if got := property(t, unit, "ActiveState"); got != "failed" {
			t.Fatalf("the emulator is %s after a manufacture that was killed", got)
		}
		if out, err := in("test", "-e", state+"/tpm2-00.permall"); err == nil {
			t.Fatalf("a killed manufacture left a TPM: %s", out)
		}
		if wait == before {
			must(t, "rm", "-r", "/etc/systemd/system/"+maker(name)+".d")
			must(t, "systemctl", "daemon-reload")
		}
	}
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear")+made)
	_, _ = in("systemctl", "reset-failed", unit, maker(name))
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	certified(t, name)
}

// awaitProgram waits until a process of a unit executes a program.
func awaitProgram(t *testing.T, unit, program string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		group := property(t, unit, "ControlGroup")
		pids, _ := in("cat", "/sys/fs/cgroup"+group+"/cgroup.procs")
		for pid := range strings.FieldsSeq(pids) {
			if exe, _ := os.Readlink(inside("/proc/" + pid + "/exe")); group != "" && filepath.Base(exe) == program {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not execute %s: %s", unit, program, journal(t, unit, "short-precise"))
		}
	}
}

// awaitAny waits until a property has one of the values.
func awaitAny(t *testing.T, unit, name string, want ...string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got := property(t, unit, name)
		if slices.Contains(want, got) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s of %s is %q, want one of %q", name, unit, got, want)
		}
	}
}

// certified checks that the TPM's endorsement key has a certificate in the TPM, and
// that it leads to the root of the CA. The service is stopped for that.
func certified(t *testing.T, name string) {
	t.Helper()
	must(t, "systemctl", "stop", service(name))
	defer must(t, "systemctl", "start", service(name))
	var keys []struct{ PublicKey, Certificate string }
	text := must(t, "swtpm", "state", "inspect", "--ek", "--json", "/etc/swtpm/"+name+".toml")
	if err := json.Unmarshal([]byte(text), &keys); err != nil || len(keys) == 0 {
		t.Fatalf("%d keys, %v: %s", len(keys), err, text)
	}
	issuer, root := x509.NewCertPool(), x509.NewCertPool()
	issuer.AddCert(certificate(t, must(t, "cat", "/var/lib/swtpm-ca/issuercert.pem")))
	root.AddCert(certificate(t, must(t, "cat", "/var/lib/swtpm-ca/swtpm-localca-rootca-cert.pem")))
	for _, k := range keys {
		cert := certificate(t, k.Certificate)
		cert.UnhandledCriticalExtensions = nil // the TPM's model, in a subject alternative name
		if _, err := cert.Verify(x509.VerifyOptions{Roots: root, Intermediates: issuer, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("the certificate does not verify: %v", err)
		}
		block, _ := pem.Decode([]byte(k.PublicKey))
		if block == nil || !bytes.Equal(block.Bytes, cert.RawSubjectPublicKeyInfo) {
			t.Errorf("the certificate is not that of the key: %s", text)
		}
		if got := cert.Subject.CommonName; got != name {
			t.Errorf("the certificate is for %q, want %q", got, name)
		}
	}
}

// certificate decodes a certificate in PEM.
func certificate(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM in %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
