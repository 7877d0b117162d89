// Package libvirt_test runs virtual machines with libvirt and QEMU, without KVM,
// and our swtpm as the one that libvirt finds in its PATH. libvirtd has mount,
// process, network and IPC namespaces of its own, with overlays on /etc and /var
// and an empty /run: nothing of the machine changes. swtpm_setup and swtpm_localca
// are ours too. make libvirt calls it, as root.
package libvirt_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	wantVar  = "SWTPM_LIBVIRT"       // set to run these tests at all
	innerVar = "SWTPM_LIBVIRT_INNER" // the work directory, inside the namespaces
	runVar   = "SWTPM_LIBVIRT_RUN"   // a pattern: only these tests, as -run has it
)

// patience is how long a test waits for an expected event; no test measures time.
const patience = 4 * time.Minute

func TestMain(m *testing.M) {
	if dir := os.Getenv(secondVar); dir != "" {
		fmt.Fprintln(os.Stderr, "the second libvirtd:", becomeSecond(dir))
		os.Exit(1)
	}
	if os.Getenv(innerVar) == "" {
		os.Exit(m.Run())
	}
	stop, err := startLibvirt(os.Getenv(innerVar))
	if err != nil {
		fmt.Fprintln(os.Stderr, "libvirt:", err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

// TestLibvirt runs all other tests of this package inside the namespaces.
func TestLibvirt(t *testing.T) {
	switch {
	case os.Getenv(innerVar) != "":
		t.Skip("this is what runs the others")
	case os.Getenv(wantVar) == "":
		t.Skipf("$%s is not set: run make libvirt", wantVar)
	case os.Geteuid() != 0:
		t.Fatal("needs root: libvirtd, namespaces and mounts")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // swtpm runs as tss
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "../../cmd/swtpm", "../../cmd/swtpm-admin", "../../cmd/swtpm-ioctl", "../../cmd/swtpm-setup", "../../cmd/swtpm-localca")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range []string{"ioctl", "setup", "localca"} {
		if err := os.Rename(filepath.Join(bin, "swtpm-"+name), filepath.Join(bin, "swtpm_"+name)); err != nil {
			t.Fatal(err)
		}
	}
	// The shell is process 1: it reaps the children of daemons.
	ctx, cancel := context.WithTimeout(context.Background(), 32*time.Minute)
	defer cancel()
	inner := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--mount-proc", "--kill-child",
		"sh", "-c", `"$@" & wait $!`, "sh", os.Args[0], "-test.v", "-test.timeout=30m", "-test.run="+os.Getenv(runVar))
	inner.Env = append(os.Environ(), innerVar+"="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := inner.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if n := strings.Count(string(out), "\n--- PASS: "); err == nil && n < 2 && os.Getenv(runVar) == "" {
		t.Errorf("only %d tests ran", n)
	}
}

// qemuConf makes QEMU run as root without anything that needs more than a container
// has, and swtpm as usual.
const qemuConf = `stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
user = "root"
group = "root"
swtpm_user = "tss"
swtpm_group = "tss"
`

// startLibvirt makes the file systems and starts libvirtd. stop ends it.
func startLibvirt(dir string) (stop func(), err error) {
	for _, lower := range []string{"/etc", "/var"} {
		if err := overlay(lower, filepath.Join(dir, "overlay"+lower)); err != nil {
			return nil, err
		}
	}
	if err := emptyCA(); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount /run: %w", err)
	}
	for path, text := range map[string]string{
		"/etc/libvirt/qemu.conf": qemuConf,
		"/etc/swtpm_setup.conf": "create_certs_tool = swtpm_localca\n" +
			"create_certs_tool_config = /etc/swtpm-localca.conf\ncreate_certs_tool_options = /etc/swtpm-localca.options\n",
		"/etc/libvirt/libvirtd.conf": `auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:` + dir + `/libvirtd.log"
`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { // swtpm_setup runs as tss
			return nil, err
		}
	}
	d := exec.Command("libvirtd")
	var said bytes.Buffer
	d.Stdout, d.Stderr = &said, &said
	if err := d.Start(); err != nil {
		return nil, fmt.Errorf("libvirtd: %w; install the package libvirt-daemon-system", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("virsh", "-c", "qemu:///system", "version").CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(dir, "libvirtd.log"))
			return nil, fmt.Errorf("libvirtd does not answer: %s%s%s", out, said.String(), log)
		}
	}
	return func() {
		_ = d.Process.Signal(unix.SIGTERM)
		_ = d.Wait()
	}, nil
}

// emptyCA is a directory for a new local CA, which swtpm_localca makes as the
// user tss; the machine's own may belong to another program.
func emptyCA() error {
	const dir = "/var/lib/swtpm-localca"
	tss, err := user.Lookup("tss")
	if err != nil {
		return fmt.Errorf("%w; install the package swtpm-tools", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=750,uid="+tss.Uid+",gid="+tss.Gid)
}

// overlay lets writes below lower go elsewhere.
func overlay(lower, dir string) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	if err := unix.Mount("overlay", lower, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", lower, err)
	}
	return nil
}
