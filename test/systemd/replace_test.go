package systemd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The packages of Debian's swtpm are in the image, as files.
const theirPackages = "/swtpm"

// TestPackageReplaces checks a machine with Debian's swtpm, a local CA and a guest's TPM, as
// libvirt has them, that gets our package and later Debian's again. The guest keeps its TPM, the
// CA its keys, and the configuration its changes, and the remains of removed packages can be
// purged.
func TestPackageReplaces(t *testing.T) {
	guest := instance(t, "")
	if _, err := os.Stat(inside(packageFile)); err != nil {
		t.Skip("there is no package: run make debtest")
	}
	_, _ = in("dpkg", "--purge", "swtpm-go")
	must(t, "rm", "-rf", "/etc/swtpm", "/var/lib/swtpm-localca")
	t.Cleanup(func() {
		_, _ = in("systemctl", "stop", "guest")
		_, _ = in("dpkg", "--purge", "swtpm-go", "swtpm-tools", "swtpm", "swtpm-libs")
	})
	theirs := strings.Fields(must(t, "sh", "-c", "echo "+theirPackages+"/*.deb"))
	install(t, theirs...)
	state := "/var/lib/libvirt/swtpm/" + guest + "/tpm2"
	must(t, "install", "-d", "-o", "tss", "-g", "tss", "-m", "0711", "/var/lib/libvirt/swtpm")
	must(t, "install", "-d", "-o", "tss", "-g", "tss", "-m", "0700", "/var/lib/libvirt/swtpm/"+guest)
	const banks = "active_pcr_banks = sha256,sha384"
	must(t, "sed", "-i", "s/^active_pcr_banks.*/"+banks+"/", "/etc/swtpm_setup.conf")
	must(t, "sh", "-c", "echo '# of this machine' >>/etc/swtpm-localca.conf")
	must(t, "sed", "-i", "s,QEMU,Ours,", "/etc/swtpm-localca.options")
	manufacture(t, state, guest)
	ek := key(t, state)

	kept := func(who string) {
		t.Helper()
		if got := key(t, state); got != ek {
			t.Errorf("%s: the endorsement key is %s, was %s", who, got, ek)
		}
		conf := must(t, "cat", "/etc/swtpm_setup.conf", "/etc/swtpm-localca.conf", "/etc/swtpm-localca.options")
		for _, want := range []string{banks + "\n", "# of this machine\n", "--platform-model Ours\n"} {
			if !strings.Contains(conf, want) {
				t.Errorf("%s: there is no %q in\n%s", who, want, conf)
			}
		}
		if left := must(t, "find", "/etc", "-maxdepth", "1", "-name", "*swtpm*dpkg-*"); left != "" {
			t.Errorf("%s: dpkg found files to ask about:\n%s", who, left)
		}
	}
	ca := func() string {
		t.Helper()
		return must(t, "sh", "-c", "cd /var/lib/swtpm-localca && stat --format='%n %U:%G %a' . && sha256sum *.pem")
	}
	before, serial := ca(), must(t, "cat", "/var/lib/swtpm-localca/certserial")
	another := func(who string) {
		t.Helper()
		place := "/var/lib/libvirt/swtpm/" + guest + "/" + who
		manufacture(t, place, who)
		_ = key(t, place)
		if after := ca(); after != before {
			t.Errorf("%s: the CA was\n%s\nand is\n%s", who, before, after)
		}
		now := must(t, "cat", "/var/lib/swtpm-localca/certserial")
		if now == serial {
			t.Errorf("%s: the certificate has not the next number of the CA's, %s", who, now)
		}
		serial = now
	}

	replaceAndBack(t, theirs, kept, another)
}

// replaceAndBack installs our package over theirs, purges theirs, and goes back.
func replaceAndBack(t *testing.T, theirs []string, kept, another func(who string)) {
	t.Helper()
	install(t, packageFile)
	must(t, "swtpm", "show", "--help") // our program
	kept("ours")
	another("ours")
	must(t, "dpkg", "--purge", "swtpm-tools", "swtpm", "swtpm-libs")
	kept("ours, theirs purged")
	another("ours-alone")

	install(t, theirs...)
	fails(t, "swtpm", "show", "--help") // the reference's program
	kept("theirs")
	another("theirs")
	out := must(t, "dpkg", "--purge", "swtpm-go")
	if want := "swtpm-go: /var/lib/swtpm-localca is not empty and stays"; !strings.Contains(out, want) {
		t.Errorf("no %q in\n%s", want, out)
	}
	kept("theirs, ours purged")
	another("theirs-alone")
}

// install installs packages without questions to the administrator.
func install(t *testing.T, files ...string) {
	t.Helper()
	must(t, append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"}, files...)...)
}

// manufacture makes a TPM with a certificate of the local CA as libvirt does.
func manufacture(t *testing.T, state, name string) {
	t.Helper()
	must(t, "install", "-d", "-o", "tss", "-g", "tss", "-m", "0700", state)
	must(t, "setpriv", "--reuid=tss", "--regid=tss", "--clear-groups", "--",
		"swtpm_setup", "--tpm2", "--tpm-state", state, "--vmid", name,
		"--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite")
}

// key runs the TPM of a state as libvirt does, with the swtpm that is installed, and
// returns the public part of the endorsement key.
func key(t *testing.T, state string) string {
	t.Helper()
	const dir = "/run/swtpm/guest"
	must(t, "install", "-d", "-o", "tss", "-g", "tss", "-m", "0755", dir)
	must(t, "systemd-run", "--quiet", "--unit=guest", "--property=User=tss", "--", "swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+state+",mode=0600", "--ctrl", "type=unixio,path="+dir+"/ctrl.sock,mode=0600",
		"--server", "type=unixio,path="+dir+"/data.sock", "--flags", "not-need-init,startup-clear")
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := in("swtpm_ioctl", "--unix", dir+"/ctrl.sock", "-g")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the TPM does not come up: %s\n%s", out, journal(t, "guest.service", "cat"))
		}
	}
	c := dial(t, "guest")
	rsp, err := transmit(c, "8001 0000000e 00000173 81010001") // TPM2_ReadPublic
	if err != nil {
		t.Fatal(err)
	}
	if string(rsp[6:10]) != "\x00\x00\x00\x00" {
		t.Fatalf("response %x", rsp)
	}
	_ = c.Close()
	must(t, "swtpm_ioctl", "--unix", dir+"/ctrl.sock", "-s")
	await(t, "guest.service", "ActiveState", "inactive")
	must(t, "rm", "-rf", dir)
	return fmt.Sprintf("%x", rsp)
}
