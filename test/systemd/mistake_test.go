package systemd_test

import (
	"os"
	"strings"
	"testing"
	"time"
)

const mistakesTCP = "[control]\nlisten = \"tcp:127.0.0.1:PORT\"\n[tpmstate]\ndir = \"/var/lib/swtpm/%i\"\n"

// mistakesCases are the cases of TestMistakes.
var mistakesCases = []struct{ name, profile, dropIn, want string }{
	{"key", own + "[log]\nlevl = 2\n", "", `.toml:10:1: [log] levl: unknown key; did you mean "level"?`},
	{"quotes", strings.Replace(profile("clear"), `"clear"`, "clear", 1), "", `.toml:8:11: expected value but found "clear" instead; strings must be quoted`},
	{"network", strings.Replace(mistakesTCP, "PORT", "2322", 1), "", `address family not supported by protocol; give the unit the network with tcp.conf`},
	{"port", strings.Replace(mistakesTCP, "PORT", "22", 1), "[Service]\nPrivateNetwork=no\nRestrictAddressFamilies=AF_INET\n", "control channel: tcp:127.0.0.1:22: bind: permission denied; choose a port from 1024 on"},
	{"elsewhere", strings.ReplaceAll(profile("clear"), "/var/lib/swtpm/%i", "/srv/%i"), "", "no such file or directory: TPM_RESULT 0x9 (TPM_FAIL); create the directory, or correct [tpmstate]"},
	{"outside", strings.ReplaceAll(profile("clear"), "/var/lib/swtpm/%i", "/srv"), "", "read-only file system: TPM_RESULT 0x9 (TPM_FAIL); mount it writable, in a unit add ReadWritePaths="},
	{"log", profile("clear") + "[log]\nfile = \"/var/log/%i.log\"\n", "", "read-only file system; choose a directory that can be written to"},
	{"user", profile("clear") + "[sandbox]\nuser = \"daemon\"\n", "", "start as root, or omit the user"},
	{"device", "[interface]\ntype = \"vtpm-proxy\"\n[tpmstate]\ndir = \"/var/lib/swtpm/%i\"\n", "", "could not open /dev/vtpmx"},
	{"descriptor", "[control]\nlisten = \"fd:9\"\n[tpmstate]\ndir = \"/var/lib/swtpm/%i\"\n", "", "descriptor 9 "},
	{"pid", profile("clear") + "[pid]\nfile = \"/run/%i.pid\"\n", "", "permission denied; let this user write to it and its directory, or choose another"},
	{"keyfile", profile("clear") + "[key]\nfile = \"/etc/swtpm/none.key\"\n", "", `key file "/etc/swtpm/none.key"`},
	{"made", profile("clear") + "[manufacture]\nek-cert = true\nconfig = \"/etc/none.conf\"\n", "", "swtpm-manufacture@.service should have created it, see its status"},
}

// TestMistakes checks a profile or a drop-in with a mistake: the start fails with exit code 1 and
// is not repeated, and systemctl status has one line with the problem, its place and the remedy.
func TestMistakes(t *testing.T) {
	if os.Getenv(innerVar) == "" {
		t.Skip("TestSystemd runs this in a container")
	}

	for _, c := range mistakesCases {
		t.Run(c.name, func(t *testing.T) {
			name := instance(t, strings.Replace(c.profile, "STARTUP", "clear", 1))
			unit := service(name)
			if c.dropIn != "" {
				dropIn(t, unit, c.dropIn)
			}
			status, lines := failedStart(t, unit)
			t.Log(strings.Join(lines, ""))
			if len(lines) == 0 || !strings.Contains(lines[len(lines)-1], c.want) {
				t.Errorf("no %q in the last line of\n%s", c.want, status)
			}
		})
	}

	// A unit of no profile's name, where the installed profile was removed.
	must(t, "mv", "/usr/lib/swtpm/default.toml", "/usr/lib/swtpm/other.toml")
	defer must(t, "mv", "/usr/lib/swtpm/other.toml", "/usr/lib/swtpm/default.toml")
	if out, _ := failedStart(t, service("no-such-profile")); !strings.Contains(out, `profile "no-such-profile": neither no-such-profile.toml nor default.toml in /etc/swtpm`) ||
		!strings.Contains(out, "; copy /usr/share/doc/swtpm-go/examples/vm1.toml to /etc/swtpm/no-such-profile.toml") {
		t.Error(out)
	}
}

// TestMistakeBusyJournal checks that the reason of a failed INIT belongs to its unit if the journal
// does nothing while the start fails. The process has entered its sandbox before INIT, and must be able to wait
// for the journal there.
func TestMistakeBusyJournal(t *testing.T) {
	if os.Getenv(innerVar) == "" {
		t.Skip("TestSystemd runs this in a container")
	}

	unit := service(instance(t, strings.ReplaceAll(profile("clear"), "/var/lib/swtpm/%i", "/srv/%i")))
	cont := func() { must(t, "systemctl", "kill", "--signal=CONT", "systemd-journald.service") }
	t.Cleanup(cont)
	var status string
	for end := time.Now().Add(patience); !strings.Contains(status, "INIT failed") && time.Now().Before(end); {
		_, _ = in("systemctl", "reset-failed", unit)
		must(t, "systemctl", "kill", "--signal=STOP", "systemd-journald.service")
		must(t, "systemctl", "start", "--no-block", unit)
		time.Sleep(time.Second)
		cont()
		await(t, unit, "ActiveState", "failed")
		must(t, "journalctl", "--sync")
		status, _ = in("systemctl", "status", "--no-pager", "--full", unit)
	}
	if !strings.Contains(status, "INIT failed") {
		t.Errorf("the status does not say why:\n%s", status)
	}
}

// failedStart starts a unit, which must fail with exit code 1 and not be tried again. It returns
// the status of the unit, and those lines of it that the process has logged.
func failedStart(t *testing.T, unit string) (status string, lines []string) {
	t.Helper()
	// A process whose start failed waits for the journal, but not for ever: its last line belongs to no
	// unit if journald has not asked for its unit by then.
	for end := time.Now().Add(patience); len(lines) == 0 && time.Now().Before(end); {
		_, _ = in("systemctl", "reset-failed", unit)
		fails(t, "systemctl", "start", unit)
		await(t, unit, "ActiveState", "failed")
		if code, again := property(t, unit, "ExecMainStatus"), property(t, unit, "NRestarts"); code != "1" || again != "0" {
			t.Errorf("exit code %s, %s restarts", code, again)
		}
		must(t, "journalctl", "--sync")
		status, _ = in("systemctl", "status", "--no-pager", "--full", unit)
		for line := range strings.Lines(status) {
			if strings.Contains(line, " swtpm[") {
				lines = append(lines, line)
			}
		}
	}
	return status, lines
}
