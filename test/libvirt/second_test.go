package libvirt_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// secondVar is set for the process that becomes the second libvirtd: its directory.
const secondVar = "SWTPM_LIBVIRT_SECOND"

// host is a second libvirtd on this machine, which regards itself as another host: it has its own
// name, UUID, and directories for state, sockets and configuration. It shares disks and its
// directory with the first one.
type host struct {
	dir string
	uri string // for virsh
	pid int
}

// sharedState is what the second host has at the same place as the first one, as
// on a cluster's file system; other state is each host's own.
const sharedState = "8c0a5a3e-0000-4000-8000-000000000006"

// swtpmRoot is where libvirt keeps TPMs.
const swtpmRoot = "/var/lib/libvirt/swtpm"

// secondHost starts it. It ends with the test.
func secondHost(t *testing.T, dir string) *host {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := exec.Command("unshare", "--mount", "--uts", os.Args[0])
	d.Env = append(os.Environ(), secondVar+"="+dir)
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	d.Stdout, d.Stderr = said, said
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"said", "libvirtd.log"} {
				t.Logf("%s of the second host:\n%s", log, read(t, filepath.Join(dir, log)))
			}
		}
		_ = d.Process.Signal(unix.SIGTERM)
		<-ended
	})
	h := &host{dir: dir, uri: "qemu+unix:///system?socket=" + filepath.Join(dir, "libvirt-sock"), pid: d.Process.Pid}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("virsh", "-c", h.uri, "version").CombinedOutput()
		if err == nil {
			return h
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the second libvirtd ended: %v", err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the second libvirtd does not answer: %s", out)
		}
	}
}

// path is where the first host sees a path of the second one.
func (h *host) path(p string) string { return filepath.Join("/proc", strconv.Itoa(h.pid), "root", p) }

// becomeSecond turns this process, in namespaces of its own, into the libvirtd.
func becomeSecond(dir string) error {
	if err := unix.Sethostname([]byte("second")); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	for _, own := range []string{"/run", "/etc/libvirt", "/var/lib/libvirt/qemu", "/var/cache/libvirt", "/var/log/libvirt", "/var/log/swtpm/libvirt/qemu", swtpmRoot} {
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		var shared string
		if own == swtpmRoot { // the mount below it would be out of reach
			shared = filepath.Join(dir, "shared")
			if err := os.Mkdir(shared, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(filepath.Join(swtpmRoot, sharedState), shared, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("the shared state: %w", err)
			}
		}
		if err := unix.Mount("tmpfs", own, "tmpfs", 0, "mode=711"); err != nil {
			return fmt.Errorf("mount %s: %w", own, err)
		}
		if shared == "" {
			continue
		}
		if err := os.Mkdir(filepath.Join(own, sharedState), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(shared, filepath.Join(own, sharedState), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("the shared state: %w", err)
		}
	}
	for name, text := range map[string]string{
		"qemu.conf": qemuConf,
		"libvirtd.conf": `auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "8c0a5a3e-0000-4000-8000-0000000000ff"
unix_sock_dir = "` + dir + `"
log_outputs = "3:file:` + dir + `/libvirtd.log"
`,
	} {
		if err := os.WriteFile(filepath.Join("/etc/libvirt", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	program, err := exec.LookPath("libvirtd")
	if err != nil {
		return err
	}
	return unix.Exec(program, []string{"libvirtd"}, os.Environ())
}
