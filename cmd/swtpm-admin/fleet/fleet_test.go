package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const libvirtSocket = "/run/libvirt/qemu/swtpm/3-web-swtpm.sock"

// TestLibvirt checks the facts about a TPM that libvirt has started.
func TestLibvirt(t *testing.T) {
	f := newFake(t)
	f.run(t, 100, "swtpm", libvirtSocket, 1, classic(libvirtSocket)...)
	got := f.list(t)
	if got.Name != "web" || got.VM != "web" || got.Manager != "libvirt" || got.State != stateRunning || got.Version != "2.0" || *got.Clients != 1 || *got.Commands != 10000 ||
		got.Sandbox != "seccomp" || got.Restart != RestartNotNeeded || !got.Started.Equal(time.Unix(1700000012, 340e6)) {
		t.Errorf("%+v", got)
	}
	if got.Libtpms.summary() != "0.9.2" || got.Libcrypto.summary() != "3" {
		t.Errorf("libraries %s, %s", got.Libtpms.summary(), got.Libcrypto.summary())
	}
}

// TestTwoCounters checks that no number of commands is shown if a TPM has two descriptors that
// could be its counter: its parent passed one of them in.
func TestTwoCounters(t *testing.T) {
	f := newFake(t)
	f.run(t, 100, "swtpm", libvirtSocket, 1, classic(libvirtSocket)...)
	f.link(t, "proc/100/fd/4", "/memfd:swtpm-commands (deleted)")
	f.write(t, "proc/100/fdinfo/4", "pos:\t1\n")
	if got := f.list(t); got.Commands != nil {
		t.Errorf("%d commands, want none", *got.Commands)
	}
}

// TestReplaced checks each way in which a library is replaced.
func TestReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(f *fake)
		summary string
	}{
		"same version, another file": {func(f *fake) {
			f.write(t, "lib/new", "x")
			_ = os.Rename(f.path("lib/new"), f.path("lib/libtpms.so.0.9.2"))
		}, "0.9.2 (replaced)"},
		"another version": {func(f *fake) {
			f.write(t, "lib/libtpms.so.0.10.0", "x")
			f.link(t, "lib/libtpms.so.0", "libtpms.so.0.10.0")
		}, "0.9.2 (installed: 0.10.0)"},
		"removed": {func(f *fake) { _ = os.Remove(f.path("lib/libtpms.so.0.9.2")) }, "0.9.2 (removed)"},
		"deleted in maps": {func(f *fake) {
			maps, _ := os.ReadFile(f.path("proc/100/maps"))
			f.write(t, "proc/100/maps", strings.Replace(string(maps), "0.9.2\n", "0.9.2 (deleted)\n", 1))
		}, "0.9.2 (replaced)"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
			c.change(f)
			got := f.list(t)
			if got.Restart != RestartNeeded || got.Libtpms.summary() != c.summary || *got.Libcrypto.Replaced {
				t.Errorf("%s, %s, %+v", got.Restart, got.Libtpms.summary(), got.Reasons)
			}
		})
	}
}

// TestHiddenMaps checks that without the right to see the mappings time decides.
func TestHiddenMaps(t *testing.T) {
	f := newFake(t)
	f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
	_ = os.Remove(f.path("proc/100/maps"))
	got := f.list(t)
	if got.Libtpms != nil && got.Libtpms.Loaded != "" {
		t.Errorf("it claims that %s is loaded", got.Libtpms.Loaded)
	}
	if got.Restart == RestartNotNeeded && (got.Libtpms == nil || *got.Libtpms.Replaced) {
		t.Errorf("restart is %q without a fact", got.Restart)
	}
}

// TestPretender checks that a process counts as a TPM, and its socket as its own, only if
// the kernel confirms it.
func TestPretender(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the own processes of a user are believed")
	}
	f := newFake(t)
	f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
	if err := os.Chmod(f.path("bin/swtpm"), 0o777); err != nil { // any user could have written it
		t.Fatal(err)
	}
	if got := f.list(t); got.State != stateUnproved || got.Name != "pid 100" || got.VM != "" || got.Libtpms != nil {
		t.Errorf("%+v", got)
	}
	_ = os.Chmod(f.path("bin/swtpm"), 0o755)
	f.run(t, 100, "swtpm", "/tmp/mine", 0, classic(libvirtSocket)...) // it names a socket that it does not have
	if got := f.list(t); got.Name != "pid 100" || got.VM != "" || got.Manager != "manual" {
		t.Errorf("%+v", got)
	}
}

// TestPretenderIsNotRead checks that the command line of an unconfirmed process is not read: it
// may be in memory that is never delivered.
func TestPretenderIsNotRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the own processes of a user are believed")
	}
	f := newFake(t)
	f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
	f.run(t, 200, "qemu-system-x86_64", "", 0, "-name", "x")
	for _, program := range []string{"swtpm", "qemu-system-x86_64"} {
		if err := os.Chmod(f.path("bin/"+program), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	f.write(t, "proc/100/cmdline", "swtpm\x00doctor\x00") // it would not be listed if this counted
	if got := f.list(t); got.State != stateUnproved || got.PID != 100 {
		t.Errorf("%+v", got)
	}
}

// TestHungProcess checks that a process whose files are never delivered is read once, and
// again when that reading has ended.
func TestHungProcess(t *testing.T) {
	h := &Host{}
	ctx, cancel := context.WithCancel(context.Background())
	release, calls := make(chan bool), 0
	cancel()
	if _, err := ofProcess(ctx, h, 7, func() int { <-release; return 1 }); err == nil {
		t.Fatal("a reading that hangs returns")
	}
	for range 3 {
		if _, err := ofProcess(context.Background(), h, 7, func() int { calls++; return 1 }); !errors.Is(err, errBusy) {
			t.Errorf("%v, want %v", err, errBusy)
		}
	}
	close(release)
	for {
		if _, busy := h.busy.Load(7); !busy {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if n, err := ofProcess(context.Background(), h, 7, func() int { return 2 }); n != 2 || err != nil || calls != 0 {
		t.Errorf("%d, %v, %d calls", n, err, calls)
	}
}

// TestForeignDirectory checks that a socket in a directory of a user, or of all users, is not
// one of libvirt's.
func TestForeignDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: chown")
	}
	for name, change := range map[string]func(dir string) error{
		"of a user":    func(dir string) error { return os.Chown(dir, 1000, 1000) },
		"of all users": func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"missing":      os.Remove,
	} {
		f := newFake(t)
		f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
		if err := change(f.path("root/run/libvirt/qemu/swtpm")); err != nil {
			t.Fatal(err)
		}
		if got := f.list(t); got.Name != "pid 100" || got.VM != "" || got.Manager != "manual" {
			t.Errorf("directory %s: %+v", name, got)
		}
	}
}

// TestDistinguish checks that a name that a user can choose takes no name from others.
func TestDistinguish(t *testing.T) {
	all := []TPM{
		{Name: "web", Manager: "manual", PID: 1, UID: 1000},
		{Name: "pid 1", Manager: "manual", PID: 2, UID: 1000},
		{Name: "web", Manager: "libvirt", PID: 3, UID: 100},
		{Name: "web", Manager: "systemd", Unit: "swtpm@web.service", PID: 4},
	}
	distinguish(all)
	want := []string{"pid 1", "pid 2", "pid 3", "web"}
	for i := range all {
		if all[i].Name != want[i] {
			t.Errorf("TPM %d is called %q, want %q", i, all[i].Name, want[i])
		}
	}
}

// TestEscapes checks that no name reaches a terminal as it is.
func TestEscapes(t *testing.T) {
	f := newFake(t)
	socket := "/run/libvirt/qemu/swtpm/3-\x1b[2Jevil\u202e-swtpm.sock"
	f.run(t, 100, "swtpm", socket, 0, classic(socket)...)
	got := f.list(t)
	if !strings.Contains(got.VM, "\x1b") {
		t.Fatalf("the name is %q", got.VM)
	}
	table := Table([]TPM{got}, time.Now())
	if i := strings.IndexFunc(table, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("the table contains %q at %d:\n%q", table[i], i, table)
	}
}

// TestGuest checks that the name of a virtual machine comes from the QEMU at the other end
// of the connection, and from no other.
func TestGuest(t *testing.T) {
	f := newFake(t)
	socket := "/run/swtpm/vm1/ctrl.sock"
	f.run(t, 100, "swtpm", socket, 1, classic(socket)...)
	f.run(t, 200, "qemu-system-x86_64", "", 1, "-name", "guest=db,,1,debug-threads=on", "-chardev", "socket,path="+socket)
	f.run(t, 300, "qemu-system-x86_64", "", 1, "-name", "liar", "-chardev", "socket,path="+socket)
	f.Peers = func() (map[uint64]uint64, error) { return map[uint64]uint64{2001: 1001, 1001: 2001, 3001: 9}, nil }
	if got := f.list(t); got.Name != "vm1" || got.VM != "db,1" {
		t.Errorf("name %q, virtual machine %q", got.Name, got.VM)
	}
}

// TestNames checks the name and the manager that the path of a socket gives.
func TestNames(t *testing.T) {
	for socket, want := range map[string]named{
		libvirtSocket: {manager: "libvirt", name: "web", vm: "web"},
		"/run/user/1000/libvirt/qemu/run/swtpm/1-a-b-swtpm.sock": {manager: "libvirt", name: "a-b", vm: "a-b"},
		"/var/run/qemu-server/104.swtpm":                         {manager: "proxmox", name: "104", vm: "104"},
		"/var/lib/incus/devices/v1/swtpm-vtpm.sock":              {manager: "incus", name: "v1", vm: "v1"},
		"/home/u/ubuntu/ubuntu.swtpm-sock":                       {manager: "manual", name: "ubuntu"},
		"/run/swtpm/vm1/ctrl.sock":                               {manager: "manual", name: "vm1"},
	} {
		got, ok := nameOf(socket, "/")
		got.dir, got.user = "", false
		if !ok || got != want {
			t.Errorf("%s: %+v, want %+v", socket, got, want)
		}
	}
	if got, _ := nameOf("swtpm-vtpm.sock", "/var/lib/incus/devices/v2"); got.name != "v2" {
		t.Errorf("relative path: %+v", got)
	}
	if got, ok := nameOf("/tmp/x.sock", "/"); ok {
		t.Errorf("unknown path: %+v", got)
	}
}

// TestSilentSystemd checks that a service manager that never answers delays the list by its
// time limit and is named.
func TestSilentSystemd(t *testing.T) {
	f := newFake(t)
	f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
	f.Units = &units{list: func() ([]Unit, error) { select {} }}
	tpms, notes := f.Collect(context.Background())
	if len(tpms) != 1 || len(notes) != 1 {
		t.Errorf("%d TPMs, notes %q", len(tpms), notes)
	}
}

// TestHostileFiles checks that FIFOs in place of files keep nothing waiting.
func TestHostileFiles(t *testing.T) {
	f := newFake(t)
	dir := f.path("state")
	args := append(classic(libvirtSocket)[:4], "--tpmstate", "dir="+dir)
	f.run(t, 100, "swtpm", libvirtSocket, 0, args...)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, fifo := range []string{dir + "/tpm2-00.permall", f.path("proc/100/fifo")} {
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Remove(f.path("proc/100/maps"))
	_ = os.Rename(f.path("proc/100/fifo"), f.path("proc/100/maps"))
	if got := f.list(t); got.Stored != nil || got.Generation != nil || got.Name != "web" {
		t.Errorf("%+v", got)
	}
}

// TestOpens checks how often a listing opens files of a TPM: 200 TPMs are to be quick.
func TestOpens(t *testing.T) {
	const n, most = 20, 10
	f := newFake(t)
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	for i := range n {
		pid := 100 + i
		socket := fmt.Sprintf("/run/libvirt/qemu/swtpm/%d-vm%d-swtpm.sock", i, i)
		f.run(t, pid, "swtpm", socket, 2, classic(socket)...)
		for _, dir := range []string{"", "/fd", "/fdinfo", "/net"} {
			if _, err := unix.InotifyAddWatch(watch, f.path(fmt.Sprintf("proc/%d%s", pid, dir)), unix.IN_OPEN); err != nil {
				t.Fatal(err)
			}
		}
	}
	if tpms, _ := f.Collect(context.Background()); len(tpms) != n {
		t.Fatalf("%d TPMs", len(tpms))
	}
	opens, buf := 0, make([]byte, 1<<20)
	for {
		got, err := unix.Read(watch, buf)
		if err != nil || got <= 0 {
			break
		}
		for at := 0; at+16 <= got; opens++ {
			at += 16 + int(uint32(buf[at+12])|uint32(buf[at+13])<<8)
		}
	}
	if opens == 0 || opens > n*most {
		t.Errorf("%d files were opened for %d TPMs, want at most %d each", opens, n, most)
	}
}

// units is a service manager.
type units struct {
	list    func() ([]Unit, error)
	restart func(unit string) error
	stored  int

	mu       sync.Mutex // an upgrade with several jobs asks in parallel
	restarts []string
}

func (u *units) List(context.Context, string) ([]Unit, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.list()
}

func (u *units) Stored(context.Context, string) (int, error) { return u.stored, nil }

func (u *units) Restart(_ context.Context, unit string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.restarts = append(u.restarts, unit)
	return u.restart(unit)
}

// TestUnits checks the facts about TPMs that systemd's units run.
func TestUnits(t *testing.T) {
	f := newFake(t)
	socket := "/run/swtpm/vm1/ctrl.sock"
	f.run(t, 100, "swtpm", socket, 0, classic(socket)...)
	f.link(t, "proc/100/fd/9", "/dev/null") // as of an earlier version
	f.Units = &units{list: func() ([]Unit, error) {
		return []Unit{
			{Name: `swtpm@vm\x2d1.service`, State: "active", PID: 100,
				Status: "TPM 2.0 is on; control unix:/run/swtpm/vm1/ctrl.sock, 1 client; 7 commands; stored 2026-01-31 23:59:59 UTC; seccomp kill, Landlock 7"},
			{Name: "swtpm@bad.service", State: "failed", Result: "exit-code"},
			{Name: "swtpm@off.service", State: "inactive"},
		}, nil
	}}
	tpms, _ := f.Collect(context.Background())
	if len(tpms) != 2 || tpms[0].State != stateFailed || tpms[0].Verdict != "the unit failed: exit-code" {
		t.Fatalf("%+v", tpms)
	}
	if got := tpms[1]; got.Name != "vm-1" || *got.Commands != 7 || *got.Clients != 1 || got.Sandbox != "seccomp kill, Landlock 7" || got.Stored.Year() != 2026 {
		t.Errorf("%+v", got)
	}
}

// TestStopped checks that TPMs that are off have the verdict of the doctor.
func TestStopped(t *testing.T) {
	f := newFake(t)
	f.Profiles = []string{f.path("etc")}
	f.write(t, "etc/vm1.toml", "")
	f.write(t, "etc/host.toml", "")
	f.write(t, "etc/default.toml", "")
	f.write(t, "states/vm2/tpm2-00.permall", "")
	var asked atomic.Int32 // the doctor is asked in parallel
	f.Doctor = func(_ context.Context, names []string) map[string]string {
		asked.Add(int32(len(names)))
		return map[string]string{"vm1": "would start", "vm2": "would not start: x"}
	}
	tpms, _ := f.Collect(context.Background())
	if len(tpms) != 2 || tpms[0].Verdict != "would start" || tpms[1].Verdict != "would not start: x" || tpms[1].State != stateStopped || asked.Load() != 2 {
		t.Errorf("%d, %+v", asked.Load(), tpms)
	}
}

// TestMatch checks which TPMs a pattern selects, and that an invalid pattern is an error.
func TestMatch(t *testing.T) {
	x := TPM{Name: "vm1", VM: "web", Unit: "swtpm@vm1.service"}
	for pattern, want := range map[string]bool{"vm*": true, "web": true, "swtpm@vm1": true, "db": false, "": false} {
		if match([]string{pattern}, x.names()) != want {
			t.Errorf("%q: want %t", pattern, want)
		}
	}
	if !match(nil, x.names()) || CheckPatterns([]string{"[a"}) == nil {
		t.Error("no pattern matches all, and a bad one is an error")
	}
	if err := CheckPatterns([]string{"a*"}); err != nil {
		t.Error(err)
	}
}

var errRestart = errors.New("job failed")
