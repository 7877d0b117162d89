package systemd_test

import (
	"os"
	"strings"
	"testing"
	"time"
)

// own is a profile that makes its sockets itself.
const own = `[interface]
server = "unix:/run/swtpm/%i/data.sock"
[control]
listen = "unix:/run/swtpm/%i/ctrl.sock"
[tpmstate]
dir = "/var/lib/swtpm/%i"
[flags]
startup = "STARTUP"
`

// profile is own with a startup.
func profile(startup string) string { return strings.ReplaceAll(own, "STARTUP", startup) }

// TestStartStop checks that commands are answered when start returns, and that the process has
// only the rights of the unit. After stop the state is on disk, and the TPM was shut down:
// otherwise TPM2_Startup(STATE) would fail at the next start.
func TestStartStop(t *testing.T) {
	name := instance(t, profile("clear"))
	unit := service(name)
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)

	status, err := os.ReadFile(inside("/proc/" + property(t, unit, "MainPID") + "/status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if got := must(t, "stat", "--format=%U %a", "/var/lib/swtpm/"+name); got != "swtpm 700\n" {
		t.Errorf("the state directory is %q, want swtpm 700", got)
	}

	must(t, "systemctl", "stop", unit)
	if got := property(t, unit, "Result"); got != "success" {
		t.Errorf("the result is %q", got)
	}
	if got := must(t, "stat", "--format=%U %a", "/var/lib/swtpm/"+name+"/tpm2-00.permall"); !strings.HasPrefix(got, "swtpm 6") {
		t.Errorf("the state is %q, want swtpm 600 or so", got)
	}
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("state"))
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	must(t, "systemctl", "restart", unit)
	command(t, dial(t, name), getRandom)
}

// TestStop checks a stop under load: SIGTERM is enough, the running command gets its response, the
// TPM is shut down and its state is on disk, in this order.
func TestStop(t *testing.T) {
	name := instance(t, profile("clear"))
	unit := service(name)
	must(t, "systemctl", "start", unit)
	c := dial(t, name)
	begun, answered := make(chan error, 1), make(chan int, 1)
	go func() {
		n := 1
		begun <- try(c, getRandom)
		for try(c, getRandom) == nil {
			n++
		}
		answered <- n
	}()
	command(t, dial(t, name), getRandom)
	if err := <-begun; err != nil {
		t.Fatal("there is no load: ", err)
	}
	begin := time.Now()
	must(t, "systemctl", "stop", unit)
	t.Logf("systemctl stop took %v, after %d commands", time.Since(begin).Round(time.Millisecond), <-answered)
	if out := journal(t, unit, "cat"); !strings.Contains(out, "Deactivated successfully") {
		t.Errorf("it was not enough to ask for the end:\n%s", out)
	}
	// The very last lines may be too late for the journal.
	out := must(t, "journalctl", "--no-pager", "--output=cat", "SWTPM_INSTANCE="+name)
	if end, off := strings.Index(out, "ending: terminated"), strings.Index(out, "power off: the process ends"); end < 0 || off >= 0 && off < end {
		t.Errorf("not in order:\n%s", out)
	}
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("state")) // works after TPM2_Shutdown only
	must(t, "systemctl", "start", unit)
}

// TestDefaultProfile checks that default.toml serves every instance without a profile of its own.
func TestDefaultProfile(t *testing.T) {
	name := instance(t, "")
	must(t, "rm", "/etc/swtpm/"+name+".toml")
	put(t, "/etc/swtpm/default.toml", 0o644, profile("clear"))
	defer must(t, "rm", "/etc/swtpm/default.toml")
	must(t, "systemctl", "start", service(name))
	command(t, dial(t, name), getRandom)
}

// TestInstalledProfile checks that an instance without any profile starts with the installed one,
// as a TPM that answers at once. With its socket unit, which creates a socket at the same path, it
// starts when a client connects.
func TestInstalledProfile(t *testing.T) {
	name := instance(t, "")
	must(t, "rm", "/etc/swtpm/"+name+".toml")
	must(t, "systemctl", "start", service(name))
	command(t, dial(t, name), getRandom)
	ioctl(t, name, "-g")
	must(t, "test", "-s", "/var/lib/swtpm/"+name+"/tpm2-00.permall")
	must(t, "systemctl", "stop", service(name))

	must(t, "systemctl", "start", socket(name))
	if out := must(t, "swtpm", "doctor", name); !strings.Contains(out, "start the TPM as the service of that .socket unit") {
		t.Errorf("the doctor says\n%s", out)
	}
	ioctl(t, name, "-g")
	command(t, dial(t, name), getRandom)
	ioctl(t, name, "-s")
	await(t, service(name), "ActiveState", "inactive")
	ioctl(t, name, "-g")
}

// TestFailedStart checks that a start that fails is not repeated, and that one line has the
// reason.
func TestFailedStart(t *testing.T) {
	name := instance(t, strings.Replace(profile("clear"), "dir =", "dirr =", 1))
	unit := service(name)
	out, lines := failedStart(t, unit)
	want := `swtpm: /etc/swtpm/` + name + `.toml:6:1: [tpmstate] dirr: unknown key; did you mean "dir"?`
	if n := strings.Count(strings.Join(lines, ""), "swtpm: "); n != 1 || !strings.Contains(lines[0], want) {
		t.Errorf("%d lines of ours, and not %q, in\n%s", n, want, out)
	}
}

// TestCrash checks that a crash is followed by a new start with the same state.
func TestCrash(t *testing.T) {
	name := instance(t, profile("clear"))
	unit := service(name)
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
	must(t, "systemctl", "kill", "--signal=KILL", unit)
	await(t, unit, "NRestarts", "1")
	await(t, unit, "ActiveState", "active")
	command(t, dial(t, name), getRandom)
}

// TestDynamicUser checks a drop-in with DynamicUser=, a user without an account.
func TestDynamicUser(t *testing.T) {
	name := instance(t, profile("clear"))
	must(t, "systemctl", "mask", "swtpm-manufacture@"+name) // it has a user of its own
	dropIn(t, service(name), "[Service]\nDynamicUser=yes\nUser=\nGroup=\nRuntimeDirectoryPreserve=no\nTemporaryFileSystem=\nBindPaths=\n")
	must(t, "systemctl", "start", service(name))
	command(t, dial(t, name), getRandom)
	must(t, "systemctl", "restart", service(name))
	command(t, dial(t, name), getRandom)
	must(t, "test", "-s", "/var/lib/private/swtpm/"+name+"/tpm2-00.permall")
}
