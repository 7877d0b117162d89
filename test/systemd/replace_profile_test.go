package systemd_test

import (
	"os"
	"strings"
	"testing"
)

const packageProfileOld, packageProfileChanged = "profile swtpm /usr/bin/swtpm { }\n", "profile swtpm /usr/bin/swtpm { /srv/** rw, }\n"

// packageProfileCases are the cases of TestPackageProfile.
var packageProfileCases = []struct {
	what, text   string // the profile before; "" for the one of the package
	installed    bool   // whether the package swtpm was installed
	want         string // afterwards; "ours" for ours
	told, remain bool   // whether postinst names it, and whether it stays when both packages are purged
}{
	{"an untouched profile", "", true, "ours", false, false},
	{"a changed one", packageProfileChanged, true, packageProfileChanged, true, false},
	{"one of nobody's", packageProfileChanged, false, packageProfileChanged, true, true},
	{"none", "", false, "", false, false},
}

// TestPackageProfile checks what becomes of the AppArmor profile of the package swtpm,
// which stays as a conffile when our package replaces that one: ours takes its place
// unless it was changed, and none is made where there was none.
func TestPackageProfile(t *testing.T) {
	if _, err := os.Stat(inside(packageFile)); err != nil {
		t.Skip("there is no package: run make debtest")
	}
	const profile, ours = "/etc/apparmor.d/usr.bin.swtpm", "/usr/share/swtpm-go/usr.bin.swtpm"

	purge := func() { _, _ = in("dpkg", "--purge", "swtpm-go", "swtpm"); _, _ = in("rm", "-f", profile) }
	purge()
	t.Cleanup(purge)
	put(t, "/tmp/old/DEBIAN/control", 0o644, "Package: swtpm\nVersion: 0.7.3-0ubuntu5\nArchitecture: all\n"+
		"Maintainer: nobody <nobody@example.org>\nDescription: stands for the package swtpm\n")
	put(t, "/tmp/old/DEBIAN/conffiles", 0o644, profile+"\n")
	put(t, "/tmp/old"+profile, 0o644, packageProfileOld)
	must(t, "dpkg-deb", "--build", "/tmp/old", "/tmp/old.deb")

	// content returns the text of a file, "" if there is none.
	content := func(path string) string {
		b, _ := os.ReadFile(inside(path))
		return string(b)
	}
	for _, c := range packageProfileCases {
		if c.installed {
			must(t, "dpkg", "--install", "/tmp/old.deb")
		}
		if c.text != "" {
			put(t, profile, 0o644, c.text)
		}
		out := must(t, "dpkg", "--install", packageFile)
		want := c.want
		if want == "ours" {
			want = content(ours)
			if !strings.Contains(want, "profile swtpm /usr/{,local/}bin/swtpm") {
				t.Fatalf("%s is %q", ours, want)
			}
		}
		if got := content(profile); got != want {
			t.Errorf("%s: it is now %q, want %q", c.what, got, want)
		}
		if told := strings.Contains(out, "swtpm-go: "+profile); told != c.told {
			t.Errorf("%s: postinst names it: %v, want %v\n%s", c.what, told, c.told, out)
		}
		must(t, "dpkg", "--install", packageFile) // an upgrade
		if got := content(profile); got != want {
			t.Errorf("%s: after an upgrade it is %q, want %q", c.what, got, want)
		}
		must(t, "dpkg", "--purge", "swtpm-go")
		if c.installed {
			must(t, "dpkg", "--purge", "swtpm")
		}
		if _, err := in("test", "-e", "/var/lib/swtpm-go"); err == nil {
			t.Errorf("%s: the record stays", c.what)
		}
		if left := content(profile) != ""; left != c.remain {
			t.Errorf("%s: after both packages were purged it is there: %v, want %v", c.what, left, c.remain)
		}
		_, _ = in("rm", "-f", profile)
	}
	must(t, "dpkg", "--install", packageFile)
}
