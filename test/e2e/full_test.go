package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// fullVar asks for all operations on all kinds of disks.
const fullVar = "SWTPM_TEST_FULL"

// operation is a command whose effect must be stored.
type operation struct {
	name    string
	v       version
	prepare []string // commands before the disk is full
	cmd     string
	undoes  bool // afterwards the number no longer exists
}

// The operations of both versions. With a TPM 2.0, 80000000 is the object that
// prepare has made.
//
// Source: TPM 2.0 Library Part 3; TPM Main Part 3.
var operations = []operation{
	{name: "NV_Increment", v: v20, cmd: incr20},
	{name: "NV_Write", v: v20,
		prepare: []string{"8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800002 000b 02060006 0000 0008"},
		cmd:     "8002 0000002b 00000137 01800002 01800002 00000009 40000009 0000 00 0000 0008 0123456789abcdef 0000"},
	{name: "NV_DefineSpace", v: v20, cmd: "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800003 000b 02060006 0000 0008"},
	{name: "EvictControl", v: v20, cmd: "8002 00000023 00000120 40000001 80000000 00000009 40000009 0000 00 0000 81000001"},
	{name: "HierarchyChangeAuth", v: v20, cmd: "8002 0000001f 00000129 4000000b 00000009 40000009 0000 00 0000 0002 6161"},
	{name: "SetPrimaryPolicy", v: v20, cmd: "8002 0000003f 0000012e 40000001 00000009 40000009 0000 00 0000 0020 " + strings.Repeat("5a", 32) + " 000b"},
	{name: "ChangePPS", v: v20, cmd: "8002 0000001b 00000125 4000000c 00000009 40000009 0000 00 0000"},
	{name: "Shutdown", v: v20, cmd: "8001 0000000c 00000145 0001"},
	{name: "Clear", v: v20, cmd: "8002 0000001b 00000126 4000000c 00000009 40000009 0000 00 0000", undoes: true},
	{name: "NV_WriteValue", v: v12, cmd: fmt.Sprintf(write12, 2)},
	{name: "NV_DefineSpace", v: v12, cmd: strings.Replace(define12, "00001234", "00001235", 1)},
	{name: "SaveState", v: v12, cmd: "00c1 0000000a 00000098"},
}

// fullDisk is a file system, or a cluster store, that can be full.
type fullDisk struct {
	keeping
	dir    string // place of the state
	filler string // "" with a store
}

func (d *fullDisk) fill(t *testing.T) {
	t.Helper()
	if d.host != nil {
		d.host.member.Alarm(t, true)
		return
	}
	fill(t, d.filler)
}

func (d *fullDisk) free(t *testing.T) {
	t.Helper()
	if d.host != nil {
		d.host.member.Alarm(t, false)
		return
	}
	if err := os.Remove(d.filler); err != nil {
		t.Fatal(err)
	}
}

// onTmpfs and onLoop mount one.
func onTmpfs(t *testing.T) *fullDisk {
	t.Helper()
	needRoot(t, "it mounts a small tmpfs")
	dir := harness.TempDir(t)
	mountAt(t, "tmpfs", dir, "tmpfs", "size=192k")
	return &fullDisk{inDir, dir, filepath.Join(dir, "filler")}
}

func onLoop(t *testing.T) *fullDisk {
	t.Helper()
	return ext4(t, 2<<20, 0) // nothing is reserved for root, who may run the emulator here
}

// ext4 mounts one of some bytes, and some percent of it are reserved for root.
func ext4(t *testing.T, size int64, reserved int) *fullDisk {
	t.Helper()
	needRoot(t, "it mounts a loop device")
	image, dir := filepath.Join(harness.TempDir(t), "image"), harness.TempDir(t)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(harness.Need(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", "-m", strconv.Itoa(reserved), image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("a loop device cannot be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return &fullDisk{inDir, dir, filepath.Join(dir, "filler")}
}

func mountAt(t *testing.T, source, dir, kind, options string) {
	t.Helper()
	if err := unix.Mount(source, dir, kind, 0, options); err != nil {
		t.Skipf("needs root with the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestFullDisk checks that a command on a full disk waits, and succeeds when space
// returns; that it can be canceled, and is undone then; and that the TPM has the PCRs,
// sessions and objects from before it, and works.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disks := map[string]func(*testing.T) *fullDisk{"tmpfs": onTmpfs}
	all := os.Getenv(fullVar) != ""
	if all {
		disks["ext4"] = onLoop
	}
	t.Run("store", func(t *testing.T) { fullStore(t, all) })
	for disk, mount := range disks {
		for key, args := range keyed {
			for i, o := range operations {
				if key != "plain" && !all && i%3 != 0 {
					continue
				}
				t.Run(strings.Join([]string{disk, key, string(o.v), o.name}, " "), func(t *testing.T) {
					t.Parallel()
					fullDiskDuring(t, mount(t), o, args)
				})
			}
		}
	}
}

func fullDiskDuring(t *testing.T, d *fullDisk, o operation, args []string) {
	w := newFilled(t, d, o.v, args)
	for _, c := range o.prepare {
		w.ch.ok(t, c)
	}
	for canceled := 1; canceled <= 2; canceled++ {
		before := w.sound(t)
		d.fill(t)
		answer := w.send(o.cmd)
		w.waits(t, canceled)
		if err := w.ctrl.Cancel(); err != nil {
			t.Error(err)
		}
		if got := <-answer; got != o.v.refusal() {
			t.Errorf("canceled: %v, want %v", got, o.v.refusal())
		}
		if after := w.sound(t); !bytes.Equal(after, before) {
			t.Errorf("state after a refused command\n%x, before\n%x", after, before)
		}
		w.ch.alive(t)
		d.free(t)
		if err := w.ch.bump(uint64(canceled) + 2); err != nil { // ends the episode in the log, too
			t.Errorf("with space again: %v", err)
		}
	}

	d.fill(t)
	answer := w.send(o.cmd)
	w.waits(t, 3)
	d.free(t)
	if got := <-answer; got != nil {
		t.Errorf("after space has returned: %v", got)
	}
	if o.undoes {
		return
	}
	want := w.ch.number(t)
	w.e.Kill(t)
	next := start(t, d.at(o.v, d.dir, args...))
	if got := next.power(t, o.v).number(t); got != want {
		t.Errorf("the number is %d after a new start, was %d", got, want)
	}
}

// refusal is the text of an error with the result 0x923, or 0x800.
func (v version) refusal() refused {
	if v == v12 {
		return refused(tpm.Retry)
	}
	return refused(tpm.RCNVUnavailable)
}

// refused is a result that is an error.
type refused uint32

func (r refused) Error() string { return fmt.Sprintf("result %#x", uint32(r)) }

// filled is an emulator on a disk that may be full; its TPM has a number, a session, an object
// and a PCR that is not zero.
type filled struct {
	e    *emulator
	d    *fullDisk
	v    version
	ch   *channel
	ctrl *ctrl.Client
}

func newFilled(t *testing.T, d *fullDisk, v version, args []string) *filled {
	t.Helper()
	w := &filled{d: d, v: v, e: start(t, d.at(v, d.dir, args...))}
	w.ch = w.e.power(t, v)
	w.ctrl = w.e.control(t)
	w.ch.define(t)
	for _, c := range live[v] {
		w.ch.ok(t, c)
	}
	return w
}

// live makes volatile state, and sound reads it.
var live = map[version][]string{
	v20: {
		"8001 0000002b 00000176 40000007 40000007 0010 00112233445566778899aabbccddeeff 0000 00 0010 000b", // an HMAC session
		"8002 00000041 00000182 00000001 00000009 40000009 0000 00 0000 00000001 000b " + strings.Repeat("11", 32),
		// an ECC storage key
		"8002 00000043 00000131 40000001 00000009 40000009 0000 00 0000 0004 0000 0000 001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000",
	},
	v12: {
		"00c1 0000000a 0000000a", // TPM_OIAP
		"00c1 00000022 00000014 00000001 " + strings.Repeat("11", 20),
	},
}

var soundness = map[version][]string{
	v20: {
		"8001 00000016 0000017a 00000001 02000000 00000010", // loaded sessions
		"8001 00000016 0000017a 00000001 80000000 00000010", // loaded objects
		"8001 00000016 0000017a 00000001 81000000 00000010", // persistent objects
		"8001 00000016 0000017a 00000001 01000000 00000010", // NV indices
		"8001 00000014 0000017e 00000001 000b 03 020000",
		"8001 0000000e 00000173 80000000",
		read20,
	},
	v12: {
		"00c1 00000016 00000065 00000014 00000004 00000002", // sessions
		"00c1 0000000e 00000015 00000001",
		"00c1 00000012 00000065 0000000d 00000000", // NV indices
		read12,
	},
}

// sound returns the data that a refused command must not change.
func (w *filled) sound(t *testing.T) (all []byte) {
	t.Helper()
	for _, c := range soundness[w.v] {
		all = append(all, w.ch.ok(t, c)...)
	}
	return all
}

// send sends a command; the channel has the error that is its result.
func (w *filled) send(cmd string) <-chan error {
	done := make(chan error, 1)
	go func() {
		rsp, err := w.ch.transmit(cmd)
		if err == nil && result(rsp) != 0 {
			err = refused(result(rsp))
		}
		done <- err
	}()
	return done
}

// waits waits until the log has n lines about a waiting command, and checks what
// must work meanwhile.
func (w *filled) waits(t *testing.T, n int) {
	t.Helper()
	if err := harness.Until(func() bool { return strings.Count(harness.Read(t, w.e.log), "store waiting: ") == n }); err != nil {
		t.Fatalf("wait %d: %v; log:\n%s", n, err, harness.Read(t, w.e.log))
	}
	line := harness.Read(t, w.e.log)
	for _, want := range []string{w.d.uri(w.v, w.d.dir), "no space left on device", "the TPM command waits, at most 1m40s"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in the log\n%s", want, line)
		}
	}
	other := w.e.control(t)
	if _, err := other.Capability(); err != nil {
		t.Errorf("GET_CAPABILITY while a command waits: %v", err)
	}
	if _, err := other.Established(); err != nil {
		t.Errorf("GET_TPMESTABLISHED while a command waits: %v", err)
	}
	for _, l := range []tpm.Locality{3, 0} {
		if err := other.SetLocality(l); err != nil {
			t.Errorf("SET_LOCALITY while a command waits: %v", err)
		}
	}
	if _, err := other.Config(); err != nil {
		t.Errorf("GET_CONFIG while a command waits: %v", err)
	}
	_ = other.Close()
}
