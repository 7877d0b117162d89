package systemd_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The commands of a counter in NV memory.
const (
	defineCounter = "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800001 000b 02060016 0000 0008"
	increment     = "8002 0000001f 00000134 01800001 01800001 00000009 40000009 0000 00 0000"
	readCounter   = "8002 00000023 0000014e 01800001 01800001 00000009 40000009 0000 00 0000 0008 0000"
)

// guest is what a guest has in its TPM.
type guest struct {
	name, unit      string
	conn            net.Conn
	pcr             []byte
	session, object string
	count           uint64
}

// newGuest starts the TPM of an instance and uses it.
func newGuest(t *testing.T, name string) *guest {
	t.Helper()
	g := &guest{name: name, unit: service(name)}
	must(t, "systemctl", "start", g.unit)
	g.conn = dial(t, name)
	cmd, value := extend(1, pcr10(t, g.conn))
	command(t, g.conn, cmd)
	g.pcr = value
	g.session = hex.EncodeToString(answer(t, g.conn, session)[10:14])
	g.object = hex.EncodeToString(answer(t, g.conn, sequence)[10:14])
	command(t, g.conn, defineCounter)
	command(t, g.conn, increment)
	g.count = g.counter(t)
	return g
}

func (g *guest) counter(t *testing.T) uint64 {
	t.Helper()
	return binary.BigEndian.Uint64(answer(t, g.conn, readCounter)[16:])
}

// continues checks that the guest finds all of it, over the same connection, and that
// the TPM stores again.
func (g *guest) continues(t *testing.T) {
	t.Helper()
	if got := pcr10(t, g.conn); !bytes.Equal(got, g.pcr) {
		t.Errorf("PCR 10 is %x, want %x", got, g.pcr)
	}
	command(t, g.conn, "8001 0000000e 00000189"+g.session) // TPM2_PolicyGetDigest
	command(t, g.conn, "8002 00000020 0000015c"+g.object+"00000009 40000009 0000 00 0000 0003 616263")
	if n := g.counter(t); n != g.count {
		t.Errorf("the counter is %d, want %d", n, g.count)
	}
	if out := journal(t, g.unit, "cat"); strings.Contains(out, "starting fresh") {
		t.Errorf("the TPM did not continue:\n%s", out)
	}
}

// stores checks that the counter counts.
func (g *guest) stores(t *testing.T) {
	t.Helper()
	command(t, g.conn, increment)
	g.count++
	if n := g.counter(t); n != g.count {
		t.Errorf("the counter is %d, want %d", n, g.count)
	}
}

// retries waits until systemd has tried to start the unit again.
func (g *guest) retries(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); property(t, g.unit, "NRestarts") == "0"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("systemd does not try again")
		}
	}
	awaitJournal(t, g.unit, "status=75/TEMPFAIL")
	await(t, g.unit, "ActiveState", "activating")
}

// smallDisk mounts a small file system for the state of an instance.
func smallDisk(t *testing.T, name string) (dir string) {
	t.Helper()
	dir = "/var/lib/swtpm/" + name
	must(t, "mkdir", "-p", dir)
	must(t, "mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", dir)
	must(t, "chown", "swtpm:swtpm", dir)
	t.Cleanup(func() {
		_, _ = in("systemctl", "stop", service(name))
		_, _ = in("umount", "-l", dir)
	})
	return dir
}

// TestRestartFullDisk checks that a full file system at a restart, as at an upgrade of the
// package, costs no guest its TPM.
func TestRestartFullDisk(t *testing.T) {
	name := instance(t, profile("clear"))
	dir := smallDisk(t, name)
	g := newGuest(t, name)
	_, _ = in("sh", "-c", "cat /dev/zero >"+dir+"/filler; cat /dev/zero >>"+dir+"/filler")
	for range 3 {
		must(t, "systemctl", "restart", g.unit)
		g.continues(t)
	}
	must(t, "rm", dir+"/filler")
	g.stores(t)
	must(t, "systemctl", "restart", g.unit)
	g.continues(t)
}

// TestRestartBadProfile checks that the guest keeps its TPM if the profile has a mistake at a
// restart, and that systemctl status and the journal report the mistake until it is corrected.
func TestRestartBadProfile(t *testing.T) {
	for _, c := range []struct{ name, bad, want string }{
		{"syntax", strings.Replace(profile("clear"), `"clear"`, "clear", 1), "strings must be quoted"},
		{"runtime", profile("clear") + "[key]\nfile = \"/etc/swtpm/none.key\"\n", `key file "/etc/swtpm/none.key"`},
		{"elsewhere", strings.ReplaceAll(profile("clear"), "/var/lib/swtpm/%i", "/srv/%i"), "no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := instance(t, profile("clear"))
			g := newGuest(t, name)
			file := "/etc/swtpm/" + name + ".toml"
			put(t, file, 0o644, c.bad)
			_, _ = in("systemctl", "restart", g.unit) // fails if it takes a second start
			await(t, g.unit, "ActiveState", "active")
			g.continues(t)
			awaitStatus(t, g.unit, "(?s)the profile has an error: .*"+c.want+".*running with the previous one; TPM 2.0 is on.*")
			awaitEvent(t, g.unit, "profile-rejected")
			killed(t, g.unit) // crashes, too
			await(t, g.unit, "ActiveState", "active")
			g.continues(t)
			put(t, file, 0o644, profile("clear"))
			must(t, "systemctl", "restart", g.unit)
			g.continues(t)
			g.stores(t)
			if status := property(t, g.unit, "StatusText"); strings.Contains(status, "error") {
				t.Errorf("after the correction the status is %q", status)
			}
		})
	}
}

// TestRestartLocked checks that the guest waits and continues if another process holds the lock of
// the state for longer than a start waits.
func TestRestartLocked(t *testing.T) {
	name := instance(t, profile("clear"))
	g := newGuest(t, name)
	holder := name + "-holder.service"
	// It waits for the lock, and has it when the process of the TPM ends.
	must(t, "systemd-run", "--unit="+holder, "flock", "/var/lib/swtpm/"+name, "sleep", "infinity")
	t.Cleanup(func() { _, _ = in("systemctl", "stop", holder) })
	awaitLockWaiter(t, holder)
	_, _ = in("systemctl", "restart", g.unit)
	g.retries(t)
	must(t, "systemctl", "stop", holder)
	await(t, g.unit, "ActiveState", "active")
	g.continues(t)
	g.stores(t)
}

// awaitLockWaiter waits until the process of a unit waits for a lock.
func awaitLockWaiter(t *testing.T, unit string) {
	t.Helper()
	waits := regexp.MustCompile(` -> FLOCK +\S+ +\S+ +` + property(t, unit, "MainPID") + " ")
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		locks := must(t, "cat", "/proc/locks")
		if waits.MatchString(locks) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not wait for a lock:\n%s", unit, locks)
		}
	}
}

// TestRestartMountedLate checks that the guest continues if the file system of the state is
// mounted after the service is started again.
func TestRestartMountedLate(t *testing.T) {
	name := instance(t, profile("clear"))
	dir := smallDisk(t, name)
	g := newGuest(t, name)
	disk := "/run/" + name + "-disk"
	must(t, "mkdir", disk)
	must(t, "mount", "--bind", dir, disk)
	t.Cleanup(func() { _, _ = in("umount", "-l", disk) })
	must(t, "umount", "-l", dir)
	_, _ = in("systemctl", "restart", g.unit)
	g.retries(t)
	if out := must(t, "ls", "-A", dir); strings.Contains(out, "permall") {
		t.Errorf("a new TPM was made: %s", out)
	}
	must(t, "mount", "--bind", disk, dir)
	await(t, g.unit, "ActiveState", "active")
	g.continues(t)
	g.stores(t)
	if _, err := os.Stat(inside(disk + "/tpm2-00.permall")); err != nil {
		t.Error(err)
	}
}

// TestReplacedState checks that INIT finds the new state directory if it is replaced while the
// service runs, as at a reset of the guest. The service's own mount still shows the removed one.
func TestReplacedState(t *testing.T) {
	name := instance(t, profile("clear"))
	g := newGuest(t, name)
	dir := "/var/lib/swtpm/" + name
	must(t, "sh", "-c", "cp -a "+dir+" "+dir+".new && rm -r "+dir+" && mv "+dir+".new "+dir)
	ioctl(t, name, "-i")
	await(t, g.unit, "ActiveState", "active")
	command(t, g.conn, "8001 0000000c 00000144 0000")
	if n := g.counter(t); n != g.count {
		t.Errorf("the counter is %d, want %d", n, g.count)
	}
	g.stores(t)
	must(t, "systemctl", "stop", g.unit)
	must(t, "systemctl", "start", g.unit)
	g.conn = dial(t, name)
	if n := g.counter(t); n != g.count {
		t.Errorf("the counter in the new directory is %d, want %d", n, g.count)
	}
}
