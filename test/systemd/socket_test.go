package systemd_test

import (
	"os"
	"strings"
	"testing"
)

// passed is a profile whose sockets systemd opens.
const passed = `[interface]
server = "systemd:data"
[control]
listen = "systemd:ctrl"
[tpmstate]
dir = "/var/lib/swtpm/%i"
[flags]
startup = "clear"
`

// TestSocketActivation checks that the first connection starts the service, on either socket, and
// that the sockets with their owner and mode outlive it.
func TestSocketActivation(t *testing.T) {
	name := instance(t, passed)
	unit := service(name)
	must(t, "systemctl", "start", socket(name), dataSocket(name))
	if got := property(t, unit, "ActiveState"); got != "inactive" {
		t.Fatalf("the service is %s before anybody came", got)
	}
	ioctl(t, name, "-g")
	await(t, unit, "ActiveState", "active")
	command(t, dial(t, name), getRandom)
	must(t, "systemctl", "stop", unit)
	command(t, dial(t, name), getRandom) // starts it again
	for _, file := range []string{"ctrl.sock", "data.sock"} {
		if got := must(t, "stat", "--format=%U:%G %a", "/run/swtpm/"+name+"/"+file); got != "swtpm:swtpm 660\n" {
			t.Errorf("%s is %q, want swtpm:swtpm 660", file, got)
		}
	}
	must(t, "systemctl", "restart", unit)
	command(t, dial(t, name), getRandom)
	ioctl(t, name, "-s")
	await(t, unit, "ActiveState", "inactive")
}

// TestSocketGroup checks that another group of the sockets stays when the service starts and
// stops.
func TestSocketGroup(t *testing.T) {
	name := instance(t, passed)
	dropIn(t, socket(name), "[Socket]\nSocketGroup=games\n")
	must(t, "systemctl", "start", socket(name), dataSocket(name))
	ioctl(t, name, "-g")
	must(t, "systemctl", "restart", service(name))
	ioctl(t, name, "-g")
	if got := must(t, "stat", "--format=%U:%G %a", "/run/swtpm/"+name+"/ctrl.sock"); got != "swtpm:games 660\n" {
		t.Errorf("the socket is %q, want swtpm:games 660", got)
	}
}

// TestSocketOneUser checks the drop-in for one user: members of the instance's group reach this
// TPM only, and other users reach no TPM. The group of the devices does not change this.
func TestSocketOneUser(t *testing.T) {
	profile := strings.Replace(passed, "[interface]\nserver = \"systemd:data\"\n", "", 1)
	name := instance(t, profile)
	other := name + "2"
	put(t, "/etc/swtpm/"+other+".toml", 0o644, profile)
	t.Cleanup(func() { _, _ = in("systemctl", "stop", socket(other), service(other)) })
	b, err := os.ReadFile("../../contrib/systemd/one-user.conf")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "systemd-sysusers", "--inline", "g "+name+" -", "g "+other+" -")
	dropIn(t, socket(name), string(b))
	dropIn(t, socket(other), string(b))
	must(t, "systemctl", "start", socket(name), socket(other))
	as := func(group, instance string) []string {
		return []string{"setpriv", "--reuid=games", "--regid=games", "--groups=" + group, "--",
			"swtpm_ioctl", "--unix", "/run/swtpm/" + instance + "/ctrl.sock", "-g"}
	}
	must(t, as(name, name)...)
	must(t, as(other, other)...)
	for _, c := range [][2]string{{name, other}, {other, name}, {"games", name}, {"swtpm-devices", name}, {"swtpm", name}} {
		if out := fails(t, as(c[0], c[1])...); !strings.Contains(out, "Permission denied") {
			t.Errorf("group %s at %s: %s", c[0], c[1], out)
		}
	}
}

// TestSocketTCP checks that a TCP port of a socket unit needs no network in the service.
func TestSocketTCP(t *testing.T) {
	name := instance(t, strings.Replace(passed, "[interface]\nserver = \"systemd:data\"\n", "", 1))
	dropIn(t, socket(name), "[Socket]\nListenStream=\nListenStream=127.0.0.1:2322\n")
	must(t, "systemctl", "start", socket(name))
	must(t, "swtpm_ioctl", "--tcp", "127.0.0.1:2322", "-g")
}

// TestSocketMissing checks that a service without its socket unit names the missing unit.
func TestSocketMissing(t *testing.T) {
	name := instance(t, passed)
	fails(t, "systemctl", "start", service(name))
	want := "swtpm: control channel: systemd:ctrl: systemd passed no socket with this name; start the .socket unit with FileDescriptorName=ctrl before the service"
	awaitJournal(t, service(name), want)
}
