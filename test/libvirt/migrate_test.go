package libvirt_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMigration checks that a running guest with a TPM 2.0 migrates to a second libvirtd, which
// libvirt regards as another host, and back: the TPM's NV memory and PCRs are the same each time,
// and no TPM stays on the host that the guest has left, unless both share the state, as on a
// cluster's file system.
//
// libvirt regards a directory as shared by the type of its file system, so one is mounted as
// GlusterFS. There the emulators have --migration.
func TestMigration(t *testing.T) {
	dir := inside(t)
	own := &guest{name: "mig20", uuid: "8c0a5a3e-0000-4000-8000-000000000005", version: "2.0", model: "tpm-crb"}
	shared := &guest{name: "shared20", uuid: sharedState, version: "2.0", model: "tpm-tis"}
	mountShared(t, dir)
	second := secondHost(t, filepath.Join(dir, "second"))
	first := &host{uri: "qemu:///system", pid: os.Getpid()}
	for _, g := range []*guest{own, shared} {
		t.Run(g.name, func(t *testing.T) { migrate(t, dir, g, shared, first, second) })
	}
}

// migrate migrates a guest to the second host and back.
func migrate(t *testing.T, dir string, g, shared *guest, first, second *host) {
	g.define(t, dir)
	// libvirt 9.0 looks at the file system before it makes the directory
	// of the TPM, so the first start takes no place for shared.
	virsh(t, "start", g.name)
	virsh(t, "destroy", g.name)
	g.gone(t)
	virsh(t, "start", g.name)
	g.running(t)
	t.Cleanup(func() { _ = exec.Command("virsh", "-c", second.uri, "destroy", g.name).Run() })
	if has := strings.Contains(commandLine(t, g), "--migration"); has != (g == shared) {
		t.Errorf("the emulator has --migration: %v; %s", has, commandLine(t, g))
	}
	here := measured(t, first, g)
	for i, way := range []struct{ from, to *host }{{first, second}, {second, first}} {
		sock := filepath.Join(dir, fmt.Sprintf("%s-%d.sock", g.name, i))
		// Its disk is on both hosts, and nothing is written to it.
		virshAt(t, way.from, "migrate", "--live", "--unsafe", "--persistent", "--undefinesource",
			"--domain", g.name, "--desturi", way.to.uri, "--migrateuri", "unix://"+sock)
		if s := strings.TrimSpace(virshAt(t, way.to, "domstate", g.name)); s != "running" {
			t.Fatalf("the guest is %s, want running", s)
		}
		g.alone(t)
		if line := commandLine(t, g); strings.Contains(line, ",incoming") != (g == shared) {
			t.Errorf("the emulator that took the TPM in: %s", line)
		}
		if out, err := exec.Command("virsh", "-c", way.from.uri, "domstate", g.name).CombinedOutput(); err == nil {
			t.Errorf("the host that the guest has left has it still: %s", out)
		}
		if there := measured(t, way.to, g); there != here {
			t.Errorf("the TPM was\n%s\nand is\n%s", here, there)
		}
		if _, err := os.Stat(way.from.path(g.permanent())); (err == nil) != (g == shared) {
			t.Errorf("the TPM on the host that the guest has left: %v", err)
		}
		if _, err := os.Stat(way.to.path(g.permanent())); err != nil {
			t.Errorf("the TPM on the guest's host: %v", err)
		}
	}
	// It is on the disk, too.
	virsh(t, "destroy", g.name)
	g.gone(t)
	virsh(t, "start", g.name)
	g.running(t)
	if now := measured(t, first, g); now != here {
		t.Errorf("after a start the TPM is\n%s\nand was\n%s", now, here)
	}
	virsh(t, "destroy", g.name)
	g.gone(t)
	virsh(t, "undefine", g.name, "--keep-tpm")
}

// mountShared makes a file system that libvirt takes for a cluster's.
func mountShared(t *testing.T, dir string) {
	t.Helper()
	place, lower := filepath.Join(swtpmRoot, sharedState), filepath.Join(dir, "cluster")
	for _, d := range []string{place, lower} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("bindfs", "-o", "subtype=glusterfs", lower, place).CombinedOutput(); err != nil {
		t.Fatalf("bindfs: %v; it needs the package bindfs and /dev/fuse\n%s", err, out)
	}
}

// virshAt runs a command on a host that must succeed.
func virshAt(t *testing.T, h *host, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", h.uri, "-q"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh -c %s %s: %v\n%s", h.uri, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// alone waits until the guest has one emulator.
func (g *guest) alone(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); len(emulators(t, g)) != 1; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s has the emulators %q, want one", g.name, emulators(t, g))
		}
	}
}

// commandLine is the command line of the guest's emulator.
func commandLine(t *testing.T, g *guest) string {
	t.Helper()
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range list {
		b, _ := os.ReadFile(file) // it may have ended
		if strings.HasPrefix(string(b[bytes.IndexByte(b, 0)+1:]), "socket\x00") && strings.Contains(string(b), "dir="+g.state()) {
			return strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	t.Fatalf("%s has no emulator", g.name)
	return ""
}

// The commands: TPM2_PCR_Read of PCRs 0 to 3, 6 and 7, SHA-256, which the firmware
// leaves alone when it looks for a disk; TPM2_NV_ReadPublic and TPM2_NV_Read of
// the certificate of the first EK, 512 bytes of it, by the owner.
const (
	pcrRead      = "8001 00000014 0000017e 00000001 000b 03 cf0000"
	nvReadPublic = "8001 0000000e 00000169 01c00002"
	nvRead       = "8002 00000023 0000014e 40000001 01c00002 00000009 40000009 0000 00 0000 0200 0000"
)

// measured waits until the guest's firmware has measured what it does into its TPM,
// and returns what is in PCRs and NV memory.
func measured(t *testing.T, h *host, g *guest) string {
	t.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		now := look(t, h, g)
		// PCR 7, the last in the response, has got the separator that ends it.
		pcrs, _, _ := strings.Cut(now, "\n")
		if now != "" && now == last && !strings.HasSuffix(pcrs, strings.Repeat("00", 32)) {
			return now
		}
		last = now
	}
	t.Fatalf("the firmware has not measured:\n%s", last)
	return ""
}

// look asks the emulator for its state, as QEMU does when it migrates, and a TPM
// that starts with it for PCRs and NV memory; "" if the firmware has not started it.
func look(t *testing.T, h *host, g *guest) string {
	t.Helper()
	list, err := filepath.Glob(h.path("/run/libvirt/qemu/swtpm/*-" + g.name + "-swtpm.sock"))
	if err != nil || len(list) != 1 {
		t.Fatalf("sockets %q, %v, want one", list, err)
	}
	dir, err := os.MkdirTemp("", "look")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock, link := filepath.Join(dir, "ctrl"), filepath.Join(dir, "guest")
	if err := os.Symlink(list[0], link); err != nil { // a path of a socket is short
		t.Fatal(err)
	}
	ioctl := func(sock string, args ...string) {
		t.Helper()
		if out, err := exec.Command("swtpm_ioctl", append([]string{"--unix", sock}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("swtpm_ioctl %q: %v\n%s", args, err, out)
		}
	}
	// The permanent one last: it is never older than the volatile one.
	ioctl(link, "--save", "volatile", filepath.Join(dir, "volatile"))
	ioctl(link, "--save", "permanent", filepath.Join(dir, "permanent"))

	data := filepath.Join(dir, "data")
	tpm := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+sock, "--server", "type=unixio,path="+data)
	var said strings.Builder
	tpm.Stdout, tpm.Stderr = &said, &said
	if err := tpm.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = tpm.Process.Kill()
		_ = tpm.Wait()
	}()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(data); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the TPM to look with has no socket")
		}
	}
	ioctl(sock, "--load", "permanent", filepath.Join(dir, "permanent"))
	ioctl(sock, "--load", "volatile", filepath.Join(dir, "volatile"))
	ioctl(sock, "-i")
	c, err := net.Dial("unix", data)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pcrs := ask(t, c, pcrRead)
	if pcrs == "" {
		return ""
	}
	return strings.Join([]string{pcrs[2*(10+4):], ask(t, c, nvReadPublic), ask(t, c, nvRead)}, "\n")
}

// ask sends a command that must succeed, in hex, and returns the response; "" if
// the TPM was not started.
func ask(t *testing.T, c net.Conn, cmd string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(cmd, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 10)
	if _, err := io.ReadFull(c, rsp); err != nil {
		t.Fatal(err)
	}
	rsp = append(rsp, make([]byte, int(binary.BigEndian.Uint32(rsp[2:]))-len(rsp))...)
	if _, err := io.ReadFull(c, rsp[10:]); err != nil {
		t.Fatal(err)
	}
	switch code := binary.BigEndian.Uint32(rsp[6:]); code {
	case 0:
	case 0x100: // TPM_RC_INITIALIZE
		return ""
	default:
		t.Fatalf("%s answers %x", cmd, rsp)
	}
	return hex.EncodeToString(rsp)
}
