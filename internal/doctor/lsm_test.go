package doctor

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// newExamination returns an examination of a TPM in /srv/vm1 with system files in root.
func newExamination(root string) *examination {
	return &examination{root: root, report: newReport("vm1"), cfg: &config.Config{
		TPM:     tpm.V20,
		Pcap:    config.Pcap{File: "/srv/vm1.pcapng"},
		State:   config.State{Location: nv.Location{Kind: nv.Directory, Path: "/srv/vm1"}},
		Control: config.Control{Listen: config.Endpoint{Kind: config.Unix, Path: "/run/vm1.sock"}},
		Log:     config.Log{File: "/var/log/vm1.log"},
	}}
}

const profileText = `# a profile
#include <tunables/global>
include if exists <tunables/none>

profile swtpm /usr/bin/swtpm flags=(attach_disconnected) {
  #include <abstractions/base>
  capability chown,
  /usr/bin/swtpm rm,
  owner @{HOME}/** rwk,
  owner /var/lib/swtpm/** rwk, # state
  /run/{vm,guest}[0-9].sock rw,
  deny /srv/secret/** w,
  /srv/** rw,
  /var/log/*.log w,
  include if exists <local/usr.bin.swtpm>
}
`

// TestAppArmor checks the findings about an AppArmor profile, and that its recommended rule
// removes them.
func TestAppArmor(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	newRoot := func(mode string) string {
		root := t.TempDir()
		put(t, root, "/sys/module/apparmor/parameters/enabled", "Y\n")
		put(t, root, "/sys/kernel/security/apparmor/policy/profiles/other.1/attach", "/usr/bin/other\n")
		put(t, root, "/sys/kernel/security/apparmor/policy/profiles/swtpm.7/attach", exe+"\n")
		put(t, root, "/sys/kernel/security/apparmor/policy/profiles/swtpm.7/name", "swtpm\n")
		put(t, root, "/sys/kernel/security/apparmor/policy/profiles/swtpm.7/mode", mode+"\n")
		return root
	}
	findings := func(root string) string {
		x := newExamination(root)
		x.check = "apparmor"
		x.apparmor()
		if !x.report.Starts {
			t.Error("an AppArmor finding is an error")
		}
		var b strings.Builder
		for _, f := range x.report.Findings {
			b.WriteString(f.String() + "\n")
		}
		return b.String()
	}

	if got := findings(t.TempDir()); got != "" {
		t.Errorf("without AppArmor: %s", got)
	}
	if got := findings(newRoot("complain")); got != "" {
		t.Errorf("with a profile that complains: %s", got)
	}
	root := newRoot("enforce")
	if got := findings(root); !strings.Contains(got, "source of its profile was not found") {
		t.Errorf("without a text: %s", got)
	}
	put(t, root, "/etc/apparmor.d/usr.bin.swtpm", profileText)
	got := findings(root)
	if n := strings.Count(got, "\n"); n != 1 || !strings.Contains(got, "/srv/vm1/.lock") || !strings.Contains(got, "owner /srv/vm1/{,**} rwk,") {
		t.Errorf("want only the lock: %s", got)
	}
	put(t, root, "/etc/apparmor.d/local/usr.bin.swtpm", "owner /srv/vm1/.lock wk,\n")
	if got := findings(root); got != "" {
		t.Errorf("with the rule: %s", got)
	}
	put(t, root, "/etc/apparmor.d/local/usr.bin.swtpm", "owner /srv/vm1/{,**} rwk,\n")
	if got := findings(root); got != "" {
		t.Errorf("with the recommended rule: %s", got)
	}
	testOtherAppArmor(t, root, findings)
}

// testOtherAppArmor checks the findings without the list of profiles, as an ordinary user sees it.
func testOtherAppArmor(t *testing.T, root string, findings func(root string) string) {
	t.Helper()
	if err := os.RemoveAll(root + "/etc/apparmor.d/local"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(root + "/sys/kernel"); err != nil {
		t.Fatal(err)
	}
	if got := findings(root); !strings.Contains(got, "run the doctor as root") {
		t.Errorf("without the list of profiles: %s", got)
	}
	put(t, root, "/proc/self/attr/apparmor/current", "swtpm (complain)\n")
	if got := findings(root); got != "" {
		t.Errorf("confined by a profile that complains: %s", got)
	}
	put(t, root, "/proc/self/attr/apparmor/current", "swtpm (enforce)\n")
	if got := findings(root); !strings.Contains(got, "owner /srv/vm1/{,**} rwk,") {
		t.Errorf("confined: %s", got)
	}
	put(t, root, "/proc/self/attr/apparmor/current", "unconfined\n")
	if got := findings(root); !strings.Contains(got, "run the doctor as root") {
		t.Errorf("not confined: %s", got)
	}
}

// TestPolicy checks the accesses that the text of a profile allows.
func TestPolicy(t *testing.T) {
	files := map[string]string{
		"/etc/apparmor.d/p":               profileText,
		"/etc/apparmor.d/tunables/global": "@{HOMEDIRS}=/home/\n@{HOME}=@{HOMEDIRS}/*/ /root/\n",
	}
	p := newPolicy(func(path string) (string, error) {
		if s, ok := files[path]; ok {
			return s, nil
		}
		return "", os.ErrNotExist
	})
	if err := p.load("/etc/apparmor.d/p", 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, perms string
		want        bool
	}{
		{"/home/me/tpm/x", "rwk", true}, {"/root/x", "rw", true}, {"/home/x", "r", false},
		{"/var/lib/swtpm/a/b", "rwk", true}, {"/var/lib/swtpm", "r", false},
		{"/run/vm1.sock", "rw", true}, {"/run/guest2.sock", "w", true}, {"/run/vmx.sock", "r", false},
		{"/srv/a", "rw", true}, {"/srv/a", "k", false}, {"/srv/secret/a", "r", true}, {"/srv/secret/a", "rw", false},
		{"/var/log/a.log", "w", true}, {"/var/log/a/b.log", "w", false},
	} {
		if got := p.allows(tt.path, tt.perms); got != tt.want {
			t.Errorf("%s %s = %v, want %v", tt.path, tt.perms, got, tt.want)
		}
	}
}

// TestMatchGlob checks AppArmor's patterns.
func TestMatchGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"/a", "/a", true}, {"/a", "/ab", false}, {"/a*", "/ab", true}, {"/a*", "/a/b", false}, {"/a/**", "/a/b/c", true},
		{"/a/**", "/a", false}, {"/?", "/x", true}, {"/?x", "//x", false}, {"/[a-c]x", "/bx", true}, {"/[^a-c]x", "/bx", false},
		{"/{a,b{c,d}}", "/bd", true}, {"/{a,b{c,d}}", "/b", false}, {"/{,usr/}bin", "/bin", true}, {`/\*`, "/*", true}, {`/\*`, "/x", false},
		{"/{a", "/{a", false}, {"/[a", "/a", false}, {"", "", true}, {"*", "", true},
	} {
		if got := matchGlob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("matchGlob(%q, %q) = %v, want %v", tt.pattern, tt.s, got, tt.want)
		}
	}
}

// FuzzMatchGlob checks that a pattern without special characters matches only itself, and that
// the time is limited.
func FuzzMatchGlob(f *testing.F) {
	f.Add("/a/**", "/a/b")
	f.Add("/{a,{b,c}}[^x-z]*", "/b")
	f.Add("/*a*a*a*a*a*a*a*a*a*b", "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Add("/plain", "/plain")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := matchGlob(pattern, s)
		if !strings.ContainsAny(pattern, `*?[]{}\`) && got != (pattern == s) {
			t.Errorf("matchGlob(%q, %q) = %v", pattern, s, got)
		}
	})
}

// TestSELinux checks the type in a label, and that files without a label give no finding.
func TestSELinux(t *testing.T) {
	for label, want := range map[string]string{
		"system_u:object_r:virt_var_lib_t:s0": "virt_var_lib_t", "u:r:t": "t", "": "", "none": "",
	} {
		if got := typeOfLabel(label); got != want {
			t.Errorf("typeOfLabel(%q) = %q, want %q", label, got, want)
		}
	}
	for _, enforce := range []string{"", "0\n", "1\n"} { // the files have no label
		root := t.TempDir()
		if enforce != "" {
			put(t, root, "/sys/fs/selinux/enforce", enforce)
		}
		x := newExamination(root)
		x.selinux()
		if len(x.report.Findings) > 0 {
			t.Errorf("enforce %q: %v", enforce, x.report.Findings)
		}
	}
}

// TestSELinuxLabel checks the findings about files with a label. It needs permission to set one,
// which root usually has.
func TestSELinuxLabel(t *testing.T) {
	root := t.TempDir()
	put(t, root, "/sys/fs/selinux/enforce", "1")
	put(t, root, "/srv/vm1/x", "")
	for kind, want := range map[string]int{"user_home_t": 1, "virt_var_lib_t": 0} {
		label := "system_u:object_r:" + kind + ":s0\x00"
		if err := unix.Setxattr(root+"/srv/vm1", "security.selinux", []byte(label), 0); err != nil {
			t.Skipf("needs root and a file system with labels: %v", err)
		}
		x := newExamination(root)
		x.selinux()
		if len(x.report.Findings) != want {
			t.Errorf("%s: %v, want %d findings", kind, x.report.Findings, want)
		}
		for _, f := range x.report.Findings {
			if f.Severity != Note || !strings.Contains(f.What, kind) {
				t.Errorf("%s: %v", kind, f)
			}
		}
	}
}

const denials = `6,1,2,-;audit: type=1400 audit(1.2:3): apparmor="DENIED" operation="open" profile="swtpm" name="/srv/x" pid=9 comm="swtpm" requested_mask="wc" denied_mask="wc"
6,1,2,-;audit: type=1400 audit(1.2:3): apparmor="DENIED" operation="open" profile="cups" name="/srv/y" pid=9 comm="cupsd" requested_mask="r"
type=AVC msg=audit(1.2:3): avc:  denied  { write } for  pid=1 comm="swtpm" name="st" dev="vda" ino=2 tclass=dir
6,1,2,-;usb 1-1: new device
`

// TestKernelLog checks the findings about denials in the kernel's log and the audit log.
func TestKernelLog(t *testing.T) {
	root := t.TempDir()
	put(t, root, "/dev/kmsg", denials)
	put(t, root, "/var/log/audit/audit.log", denials)
	x := newExamination(root)
	x.check = "kernel-log"
	x.kernelLog()
	var got []string
	for _, f := range x.report.Findings {
		got = append(got, f.Where+": "+f.What)
	}
	want := []string{
		`/srv/x: denied to a process "swtpm" recently (AppArmor: open wc)`,
		`st: denied to a process "swtpm" recently (SELinux: write)`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("findings %q, want %q", got, want)
	}
}

// FuzzParseDenial checks that all fields come from the record.
func FuzzParseDenial(f *testing.F) {
	for line := range strings.Lines(denials) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		d, ok := parseDenial(line)
		if ok && (!strings.Contains(line, `comm="`+d.comm) || !strings.Contains(line, d.name)) {
			t.Errorf("%+v is not in %q", d, line)
		}
	})
}

// TestShippedProfile checks that the AppArmor profile of this project allows the paths of libvirt,
// Proxmox and the units, and no others.
func TestShippedProfile(t *testing.T) {
	text, err := os.ReadFile("../../contrib/apparmor/usr.bin.swtpm")
	if err != nil {
		t.Fatal(err)
	}
	p := newPolicy(func(path string) (string, error) {
		switch path {
		case "/profile":
			return string(text), nil
		case "/etc/apparmor.d/tunables/global": // of Debian's apparmor 3.0, in short
			return "@{run}=/run/ /var/run/\n@{etc_ro}=/etc/ /usr/etc/\n@{HOME}=/home/*/ /root/\n@{PROC}=/proc/\n", nil
		}
		return "", os.ErrNotExist
	})
	if err := p.load("/profile", 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, perms string
		want        bool
	}{
		{"/var/lib/swtpm/vm1/tpm2-00.permall", "rwk", true},
		{"/run/swtpm/vm1/ctrl.sock", "rw", true},
		{"/etc/swtpm/vm1.toml", "r", true},
		{"/etc/swtpm/vm1.toml", "w", false},
		{"/run/credentials/swtpm@vm1.service/state-key", "r", true},
		{"/var/lib/libvirt/swtpm/5f1d7c5e/tpm2/.lock", "rwk", true},
		{"/run/libvirt/qemu/swtpm/1-vm-swtpm.sock", "rw", true},
		{"/var/run/qemu-server/100.swtpm", "rw", true},
		{"/run/qemu-server/100.swtpm.pid", "rw", true},
		{"/usr/bin/swtpm", "mr", true},
		{"/usr/bin/bash", "x", false},
		{"/etc/shadow", "r", false},
		{"/var/lib/swtpm-localca/signkey.pem", "r", false},
		{"/srv/tpm/tpm2-00.permall", "rw", false},
	} {
		if got := p.allows(c.path, c.perms); got != c.want {
			t.Errorf("%s %s is allowed: %v, want %v", c.path, c.perms, got, c.want)
		}
	}
}
