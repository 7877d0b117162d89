package guest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// model is a machine with a TPM.
type model struct {
	device   string // QEMU's name of the TPM's interface
	firmware string // SeaBIOS starts the TPM and measures; qboot leaves that to the kernel
	tpm2     bool
}

func (m model) String() string {
	v := "1.2"
	if m.tpm2 {
		v = "2.0"
	}
	return m.device + " " + v
}

var models = []model{
	{"tpm-tis", "bios-256k.bin", true},
	{"tpm-crb", "qboot.rom", true},
	{"tpm-tis", "bios-256k.bin", false},
}

// machine is a virtual machine.
type machine struct {
	*harness.Process
	monitor *monitor
	serial  net.Conn
	lines   chan string // of the serial port
	asked   int
	said    []string
}

// patience is the time that a test waits for a line of the guest: without KVM, a boot takes minutes on
// a busy machine, and boot loaders load and measure without a word.
const patience = 4 * harness.EventTimeout

// initrdAt is the address of the initial file system: after the kernel, and not
// at the end of the memory, which the firmware uses.
const initrdAt = 0x8000000

// startMachine starts a machine with the TPM of e. The machine connects to the test, so that the
// test gets all output of the guest. Further words are for QEMU.
func startMachine(t *testing.T, m model, e *emulator, disk string, args ...string) *machine {
	t.Helper()
	return startWith(t, m, e, disk, initramfs{initrd, initrdSize}, 160, args...)
}

// initramfs is a file with an initial file system.
type initramfs struct {
	path string
	size int
}

// startWith starts a machine with an initial file system and megabytes of memory.
func startWith(t *testing.T, m model, e *emulator, disk string, fs initramfs, memory int, args ...string) *machine {
	t.Helper()
	reserved := (fs.size>>20 + 16) &^ 15 // MiB
	return runQEMU(t, m.device, e, append([]string{
		"-machine", "q35", "-m", fmt.Sprint(memory), "-bios", m.firmware,
		// Not -initrd: QEMU 7.2 puts that where SeaBIOS has the TPM's log. The
		// kernel copies it from memory that is not its own.
		"-kernel", kernel, "-append", fmt.Sprintf("%s memmap=%dM$%#x initrdmem=%#x,%d", commandLine, reserved, initrdAt, initrdAt, fs.size),
		"-device", fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", fs.path, initrdAt),
		"-drive", "if=none,id=disk,format=qcow2,file=" + disk, "-device", "virtio-blk-pci,drive=disk",
	}, args...)...)
}

// runQEMU starts a machine with the TPM of e as this device, and connects to it.
func runQEMU(t *testing.T, device string, e *emulator, args ...string) *machine {
	t.Helper()
	qemu := need(t, "qemu-system-x86_64", "qemu-system-x86")
	dir := harness.TempDir(t)
	monitor, serial := listen(t, filepath.Join(dir, "m")), listen(t, filepath.Join(dir, "s"))
	v := &machine{lines: make(chan string, 1024)}
	args = append([]string{
		"-accel", "tcg", "-no-user-config", "-nodefaults", "-display", "none",
		"-cpu", "max,vendor=GenuineIntel", // of AMD's firmware TPMs, Linux wants no random numbers
		"-chardev", "socket,id=mon,path=" + monitor.Addr().String(), "-mon", "chardev=mon,mode=control",
		"-chardev", "socket,id=ser,path=" + serial.Addr().String(), "-serial", "chardev:ser",
		"-chardev", "socket,id=tpm,path=" + e.ctrl, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", device + ",tpmdev=tpm0",
	}, args...)
	cmd := exec.Command(qemu, args...)
	if e.command != nil {
		cmd = e.command(cmd.Args...)
	}
	v.Process = harness.Start(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("QEMU: %s\nemulator: %s\nguest: %s", v.Out.String(), harness.Read(t, e.log), strings.Join(v.said, "\n"))
		}
	})
	v.monitor = newMonitor(t, v.accept(t, monitor))
	v.serial = v.accept(t, serial)
	go func() {
		for s := bufio.NewScanner(v.serial); s.Scan(); {
			v.lines <- s.Text()
		}
		close(v.lines)
	}()
	return v
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// accept waits for QEMU's connection.
func (v *machine) accept(t *testing.T, l *net.UnixListener) net.Conn {
	t.Helper()
	for end := time.Now().Add(harness.EventTimeout); ; {
		_ = l.SetDeadline(time.Now().Add(100 * time.Millisecond))
		conn, err := l.Accept()
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		if v.Ended() {
			t.Fatalf("QEMU has ended: %s", v.Out.String())
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// booted waits until the program in the guest runs.
func (v *machine) booted(t *testing.T) {
	t.Helper()
	v.await(t, "> ready")
}

// await waits for a line of the guest that begins with prefix and returns the
// rest of it.
func (v *machine) await(t *testing.T, prefix string) string {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case line, ok := <-v.lines:
			if !ok {
				t.Fatalf("the guest's serial port is closed; waited for %q", prefix)
			}
			line = strings.TrimRight(line, "\r")
			v.said = append(v.said, line)
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return strings.TrimSpace(rest)
			}
		case <-late:
			t.Fatalf("the guest does not say %q", prefix)
		}
	}
}

// ask sends a line to the program in the guest and returns its answer.
func (v *machine) ask(t *testing.T, what string) string {
	t.Helper()
	text, ok := v.answer(t, what)
	if !ok {
		t.Fatalf("the guest answers %q with an error: %s", what, text)
	}
	return text
}

// answer is ask; ok is false for an error.
func (v *machine) answer(t *testing.T, what string) (text string, ok bool) {
	t.Helper()
	v.asked++
	number := fmt.Sprintf("%d-%d", time.Now().UnixNano(), v.asked)
	if _, err := fmt.Fprintf(v.serial, "%s %s\n", number, what); err != nil {
		t.Fatal(err)
	}
	answer := v.await(t, "> "+number+" ")
	if answer == "ok" {
		return "", true
	}
	return strings.CutPrefix(answer, "ok ")
}

// quit ends QEMU, and with it the emulator.
func (v *machine) quit(t *testing.T, e *emulator) {
	t.Helper()
	v.monitor.do(t, "quit", nil)
	v.Wait(t)
	e.ended(t)
}

// monitor is QEMU's control connection: one JSON object per line.
type monitor struct {
	conn net.Conn
	in   *json.Decoder
}

func newMonitor(t *testing.T, conn net.Conn) *monitor {
	t.Helper()
	m := &monitor{conn, json.NewDecoder(conn)}
	m.next(t) // the greeting
	m.do(t, "qmp_capabilities", nil)
	return m
}

// reply is one message of QEMU.
type reply struct {
	Return json.RawMessage `json:"return"`
	Error  struct {
		Text string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

func (m *monitor) next(t *testing.T) (r reply) {
	t.Helper()
	_ = m.conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	if err := m.in.Decode(&r); err != nil {
		t.Fatalf("monitor: %v", err)
	}
	return r
}

// do runs a command of the monitor, which must succeed.
func (m *monitor) do(t *testing.T, name string, args map[string]any) json.RawMessage {
	t.Helper()
	cmd := map[string]any{"execute": name}
	if args != nil {
		cmd["arguments"] = args
	}
	_ = m.conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	if err := json.NewEncoder(m.conn).Encode(cmd); err != nil {
		t.Fatalf("monitor: %v", err)
	}
	for {
		switch r := m.next(t); {
		case r.Error.Text != "":
			t.Fatalf("monitor: %s: %s", name, r.Error.Text)
		case r.Event == "":
			return r.Return
		}
	}
}

// human runs a command of the human monitor, which prints nothing if it succeeds.
func (m *monitor) human(t *testing.T, line string) {
	t.Helper()
	var said string
	if err := json.Unmarshal(m.do(t, "human-monitor-command", map[string]any{"command-line": line}), &said); err != nil {
		t.Fatal(err)
	}
	if said = strings.TrimSpace(said); said != "" {
		t.Fatalf("monitor: %s: %s", line, said)
	}
}

// migrate sends the machine to uri, waits for the end of the migration, and returns its status:
// "completed" or "failed".
func (m *monitor) migrate(t *testing.T, uri string) string {
	t.Helper()
	m.do(t, "migrate", map[string]any{"uri": uri})
	var info struct {
		Status string `json:"status"`
	}
	harness.Await(t, "the end of the migration", func() bool {
		if err := json.Unmarshal(m.do(t, "query-migrate", nil), &info); err != nil {
			t.Fatal(err)
		}
		return info.Status == "completed" || info.Status == "failed"
	})
	return info.Status
}

// status returns the machine's status: "running", "inmigrate" and so on.
func (m *monitor) status(t *testing.T) string {
	t.Helper()
	var info struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(m.do(t, "query-status", nil), &info); err != nil {
		t.Fatal(err)
	}
	return info.Status
}

// newDisk creates a disk for snapshots only.
func newDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(harness.TempDir(t), "disk")
	createDisk(t, path, "1M")
	return path
}

// createDisk makes an empty disk.
func createDisk(t *testing.T, path, size string) {
	t.Helper()
	cmd := exec.Command(need(t, "qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2", path, size)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}
