package libvirt_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inside returns the work directory, and skips the test outside the namespaces.
func inside(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(innerVar)
	if dir == "" {
		t.Skip("TestLibvirt runs this in namespaces of its own")
	}
	return dir
}

// virsh runs a command that must succeed and returns what it printed.
func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system", "-q"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// guest is a virtual machine with a TPM and nothing to boot from: the firmware
// starts the TPM, measures into it, and looks for a disk for ever.
type guest struct {
	name, uuid string
	version    string // "1.2" or "2.0"
	model      string
	secret     string // UUID of the passphrase for the state, or ""
	external   string // the control socket of a TPM that libvirt does not start, or ""
}

// state is the directory where libvirt keeps the guest's TPM.
func (g *guest) state() string {
	return filepath.Join("/var/lib/libvirt/swtpm", g.uuid, map[string]string{"1.2": "tpm1.2", "2.0": "tpm2"}[g.version])
}

// permanent is the file with the permanent state.
func (g *guest) permanent() string {
	return filepath.Join(g.state(), map[string]string{"1.2": "tpm-00", "2.0": "tpm2-00"}[g.version]+".permall")
}

// define defines the guest in libvirt, and removes it at the end of the test.
func (g *guest) define(t *testing.T, dir string) {
	t.Helper()
	disk := filepath.Join(dir, g.name+".qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	encryption := ""
	if g.secret != "" {
		encryption = "<encryption secret='" + g.secret + "'/>"
	}
	backend := fmt.Sprintf("<backend type='emulator' version='%s'>%s</backend>", g.version, encryption)
	if g.external != "" {
		backend = "<backend type='external'><source type='unix' mode='connect' path='" + g.external + "'/></backend>"
	}
	xml := filepath.Join(dir, g.name+".xml")
	write(t, xml, fmt.Sprintf(`<domain type='qemu'>
<name>%s</name><uuid>%s</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
<tpm model='%s'>%s</tpm>
<memballoon model='none'/>
</devices>
</domain>`, g.name, g.uuid, disk, g.model, backend))
	virsh(t, "define", xml)
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{g.log(), "/var/log/libvirt/qemu/" + g.name + ".log", filepath.Join(dir, "libvirtd.log")} {
				b, _ := os.ReadFile(log)
				t.Logf("%s:\n%s", log, b)
			}
		}
		_ = exec.Command("virsh", "-c", "qemu:///system", "destroy", g.name).Run()
	})
}

// log is the path of swtpm's log in libvirt.
func (g *guest) log() string { return "/var/log/swtpm/libvirt/qemu/" + g.name + "-swtpm.log" }

// running checks that the guest runs with our emulator.
func (g *guest) running(t *testing.T) {
	t.Helper()
	if s := strings.TrimSpace(virsh(t, "domstate", g.name)); s != "running" {
		t.Fatalf("%s is %s, want running", g.name, s)
	}
	exe := emulators(t, g)
	if len(exe) != 1 || !strings.HasPrefix(exe[0], os.Getenv(innerVar)) {
		t.Fatalf("%s has the emulators %q, want one that is ours", g.name, exe)
	}
}

// gone waits until no emulator of the guest is left.
func (g *guest) gone(t *testing.T) {
	t.Helper()
	end := time.Now().Add(patience)
	for len(emulators(t, g)) > 0 {
		if time.Now().After(end) {
			t.Fatalf("%s is off, its emulator is not", g.name)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// emulators returns the programs of the swtpm processes of g.
func emulators(t *testing.T, g *guest) (exe []string) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range list {
		b, _ := os.ReadFile(file) // it may have ended
		args := strings.Split(string(b), "\x00")
		if len(args) > 1 && args[1] == "socket" && strings.Contains(string(b), "dir="+g.state()) {
			link, _ := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
			exe = append(exe, link)
		}
	}
	return exe
}

// made checks that the log reports exactly one new TPM, which swtpm_setup has created; the
// emulator creates none.
func (g *guest) made(t *testing.T) {
	t.Helper()
	log := read(t, g.log())
	if n := strings.Count(log, "Starting vTPM manufacturing"); n != 1 || strings.Count(log, "Successfully authored TPM state") != 1 {
		t.Errorf("%s: the log tells of %d new TPMs, want 1:\n%s", g.name, n, log)
	}
	if strings.Contains(log, "made a new TPM") {
		t.Errorf("%s: the emulator has made a TPM:\n%s", g.name, log)
	}
	if strings.Contains(log, "INIT failed") {
		t.Errorf("%s: an INIT failed:\n%s", g.name, log)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDomainCapabilities checks that libvirt finds an emulator of both versions by our
// capabilities.
func TestDomainCapabilities(t *testing.T) {
	inside(t)
	out := virsh(t, "domcapabilities", "--virttype", "qemu", "--machine", "q35")
	_, tpm, _ := strings.Cut(out, "<tpm supported='yes'>")
	for _, want := range []string{"<value>emulator</value>", "<value>1.2</value>", "<value>2.0</value>"} {
		if !strings.Contains(tpm, want) {
			t.Errorf("no %s in\n%s", want, tpm)
		}
	}
}

// TestLife checks that a guest has the same TPM when it is defined, started, reset, saved,
// restored, switched off and on again, and that undefining it removes the TPM only if that is
// requested.
func TestLife(t *testing.T) {
	dir := inside(t)
	for _, g := range []*guest{
		{name: "crb20", uuid: "8c0a5a3e-0000-4000-8000-000000000001", version: "2.0", model: "tpm-crb"},
		{name: "tis20", uuid: "8c0a5a3e-0000-4000-8000-000000000002", version: "2.0", model: "tpm-tis"},
		{name: "tis12", uuid: "8c0a5a3e-0000-4000-8000-000000000003", version: "1.2", model: "tpm-tis"},
	} {
		t.Run(g.name, func(t *testing.T) {
			g.define(t, dir)
			virsh(t, "start", g.name)
			g.running(t)
			listed(t, g.name, "libvirt")
			virsh(t, "reset", g.name)
			g.running(t)

			saved := filepath.Join(dir, g.name+".save")
			virsh(t, "save", g.name, saved)
			g.gone(t)
			virsh(t, "restore", saved)
			g.running(t)
			virsh(t, "suspend", g.name)
			virsh(t, "resume", g.name)
			g.running(t)

			virsh(t, "destroy", g.name)
			g.gone(t)
			before := read(t, g.permanent())
			virsh(t, "start", g.name)
			g.running(t)
			virsh(t, "destroy", g.name)
			g.gone(t)
			if before == "" || read(t, g.permanent()) == "" {
				t.Error("there is no permanent state")
			}
			g.made(t)

			virsh(t, "undefine", g.name, "--keep-tpm")
			read(t, g.permanent()) // it must still exist
			g.define(t, dir)
			virsh(t, "start", g.name)
			g.running(t)
			g.made(t)
			virsh(t, "destroy", g.name)
			virsh(t, "undefine", g.name)
			if _, err := os.Stat(g.permanent()); err == nil {
				t.Error("the TPM outlives the guest")
			}
		})
	}
}

// TestEncrypted checks that the state is encrypted with a secret of libvirt, on disk and in a
// snapshot, and that the guest returns to the snapshot and continues.
func TestEncrypted(t *testing.T) {
	dir := inside(t)
	const secret = "8c0a5a3e-0000-4000-8000-00000000000a"
	xml, value := filepath.Join(dir, "secret.xml"), filepath.Join(dir, "secret")
	write(t, xml, "<secret ephemeral='no' private='yes'><uuid>"+secret+"</uuid><usage type='vtpm'><name>test</name></usage></secret>")
	write(t, value, "a passphrase of some length")
	virsh(t, "secret-define", xml)
	virsh(t, "secret-set-value", secret, "--file", value, "--plain")

	g := &guest{name: "enc20", uuid: "8c0a5a3e-0000-4000-8000-000000000004", version: "2.0", model: "tpm-tis", secret: secret}
	g.define(t, dir)
	virsh(t, "start", g.name)
	g.running(t)
	virsh(t, "snapshot-create-as", g.name, "one")
	g.running(t)
	virsh(t, "snapshot-revert", g.name, "one")
	g.running(t)
	virsh(t, "destroy", g.name)
	g.gone(t)
	// Version 2, minimum 1, header of 10 bytes; encrypted with 256 bits.
	if state := read(t, g.permanent()); !strings.HasPrefix(state, "\x02\x01\x00\x0a\x00\x09") {
		t.Errorf("the state begins with %x, want that of an encrypted one", state[:min(6, len(state))])
	}
	virsh(t, "start", g.name)
	g.running(t)
	virsh(t, "destroy", g.name)
	virsh(t, "snapshot-delete", g.name, "one")
	g.made(t)

	// Another passphrase does not start it, and changes nothing.
	before := read(t, g.permanent())
	write(t, value, "another passphrase")
	virsh(t, "secret-set-value", secret, "--file", value, "--plain")
	if out, err := exec.Command("virsh", "-c", "qemu:///system", "start", g.name).CombinedOutput(); err == nil {
		t.Errorf("the guest starts with another passphrase: %s", out)
	}
	g.gone(t)
	if read(t, g.permanent()) != before {
		t.Error("the wrong passphrase has changed the state")
	}
	if log := read(t, g.log()); !strings.Contains(log, "INIT failed: ") {
		t.Errorf("the log does not say why the guest does not start:\n%s", log)
	}
	virsh(t, "undefine", g.name)
}
