package guest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// pairsVar says how many pairs of a disk and a TPM TestEncryptedDisk copies.
const pairsVar = "SWTPM_TEST_PAIRS"

func pairCount(t *testing.T) int {
	t.Helper()
	s := os.Getenv(pairsVar)
	if s == "" {
		return 1
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q", pairsVar, s)
	}
	return n
}

// linux returns an initial file system with the programs of this machine that open an
// encrypted disk with a TPM, and the modules of the kernel for that.
func linux(t *testing.T) (fs initramfs, modules []string) {
	t.Helper()
	tcti, err := filepath.Glob("/usr/lib/*/libtss2-tcti-device.so.0")
	if err != nil || len(tcti) == 0 {
		t.Fatal("libtss2-tcti-device.so.0 is not installed: install the package libtss2-tcti-device0")
	}
	files := programs(t, need(t, "cryptsetup", "cryptsetup-bin"), need(t, "mkfs.ext4", "e2fsprogs"), need(t, "tpm2", "tpm2-tools"), tcti[0])
	files = append(files, archived{"init", 0o100755, initProgram}, archived{"mnt", 0o040755, nil}, archived{"run", 0o040755, nil}, archived{"tmp", 0o040755, nil},
		archived{"usr/bin/luks.sh", 0o100755, []byte(harness.Read(t, "testdata/luks.sh"))},
		archived{"usr/bin/busybox", 0o100755, []byte(harness.Read(t, need(t, "busybox", "busybox-static")))})
	for _, name := range []string{"createpolicy", "create", "createprimary", "evictcontrol", "load", "nvdefine", "nvincrement", "nvread", "unseal"} {
		files = append(files, archived{"usr/bin/tpm2_" + name, 0o120777, []byte("tpm2")})
	}
	for _, name := range []string{"sh", "base64", "cut", "dd", "mount", "od", "sed", "sha256sum", "sync", "tr", "umount"} {
		files = append(files, archived{"usr/bin/" + name, 0o120777, []byte("busybox")})
	}
	dir := filepath.Join(os.Getenv(dirVar), "modules")
	for name := range strings.FieldsSeq(harness.Read(t, filepath.Join(dir, "order"))) {
		files = append(files, archived{name, 0o100644, []byte(harness.Read(t, filepath.Join(dir, name)))})
		modules = append(modules, "/"+name)
	}
	b := archive(files)
	fs = initramfs{filepath.Join(harness.TempDir(t), "initrd"), len(b)}
	if err := os.WriteFile(fs.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return fs, modules
}

// linuxMachine is a machine that opens an encrypted disk.
type linuxMachine struct {
	*machine
	e *emulator
}

func bootLinux(t *testing.T, state, disk string) linuxMachine {
	t.Helper()
	fs, modules := linux(t)
	e := startEmulator(t, bin, true, state)
	v := startWith(t, models[0], e, disk, fs, 448)
	v.booted(t)
	for _, m := range modules {
		v.ask(t, "module "+m)
	}
	return linuxMachine{v, e}
}

func (v linuxMachine) script(t *testing.T, what string) string {
	t.Helper()
	text, ok := strings.CutPrefix(v.ask(t, "run luks.sh "+what), "0")
	if !ok {
		t.Fatalf("luks.sh %s: exit code %s", what, text)
	}
	return text
}

// numbers returns how many records the guest has reported as written, and how many keys it
// has made, with the first ones of "begin".
func (v linuxMachine) numbers() (records, keys int) {
	records, keys = 1, 1
	for {
		select {
		case line := <-v.lines:
			v.said = append(v.said, strings.TrimRight(line, "\r"))
			continue
		default:
		}
		break
	}
	for _, line := range v.said {
		switch {
		case strings.HasPrefix(line, "> written "):
			records++
		case strings.HasPrefix(line, "> rotated "):
			keys++
		}
	}
	return records, keys
}

// diskAndTPM is a copy of a disk and of a TPM, and what the guest had reported before the copies
// were made and after that.
type diskAndTPM struct {
	disk, tpm                                      string
	firstRecords, firstKeys, lastRecords, lastKeys int
}

// copyPair copies the disk and the TPM of a guest that runs: the disk first. If it is paused
// meanwhile, the order does not matter.
func (v linuxMachine) copyPair(t *testing.T, paused bool) (p diskAndTPM) {
	t.Helper()
	dir := harness.TempDir(t)
	p.disk, p.tpm = filepath.Join(dir, "disk"), filepath.Join(dir, "tpm")
	createDisk(t, p.disk, "64M")
	v.monitor.do(t, "blockdev-add", map[string]any{"node-name": "copy", "driver": "qcow2", "file": map[string]any{"driver": "file", "filename": p.disk}})
	if paused {
		v.monitor.do(t, "stop", nil)
	}
	p.firstRecords, p.firstKeys = v.numbers()
	v.monitor.do(t, "blockdev-backup", map[string]any{"job-id": "copy", "device": "disk", "target": "copy", "sync": "full"})
	if out, err := exec.Command(bin, "state", "snapshot", "--ctrl", v.e.ctrl, p.tpm).CombinedOutput(); err != nil {
		t.Fatalf("swtpm state snapshot: %v: %s", err, out)
	}
	if paused {
		v.monitor.do(t, "cont", nil)
	}
	harness.Await(t, "the end of the copy", func() bool { return string(v.monitor.do(t, "query-block-jobs", nil)) == "[]" })
	v.monitor.do(t, "blockdev-del", map[string]any{"node-name": "copy"})
	p.lastRecords, p.lastKeys = v.numbers()
	return p
}

// TestEncryptedDisk copies the disk and the TPM of a guest that writes to its encrypted disk
// and changes its keys, in the order of docs/snapshots.md, and boots a machine from each
// pair: both keys open the disk, all that the guest had written is on it, and the TPM is not
// older than the disk.
func TestEncryptedDisk(t *testing.T) {
	disk := filepath.Join(harness.TempDir(t), "disk")
	createDisk(t, disk, "64M")
	v := bootLinux(t, harness.TempDir(t), disk)
	v.script(t, "make")
	v.script(t, "begin")
	v.ask(t, "start /usr/bin/luks.sh work")
	var pairs []diskAndTPM
	for i := range pairCount(t) {
		records, _ := v.numbers()
		more := records + 3 + i%4 // another place in the guest's work each time
		harness.Await(t, "more records", func() bool {
			records, _ = v.numbers()
			return records >= more
		})
		time.Sleep(time.Duration(i*137%500) * time.Millisecond)
		pairs = append(pairs, v.copyPair(t, i%2 == 1))
	}
	v.quit(t, v.e)
	for i, p := range pairs {
		t.Run(fmt.Sprintf("pair %d", i), func(t *testing.T) { p.boots(t) })
	}
}

// boots restores a pair and boots from it.
func (p diskAndTPM) boots(t *testing.T) {
	t.Helper()
	state := harness.TempDir(t)
	cmd := exec.Command(bin, "state", "import", "--no-volatile", "--tpmstate", "dir="+state, p.tpm)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	v := bootLinux(t, state, p.disk)
	var records, onDisk, inTPM, key int
	if text := v.script(t, "open"); fields(text, &records, &onDisk, &inTPM, &key) != nil {
		t.Fatalf("open: %q", text)
	}
	t.Logf("%d records, of %d to %d; the counter is %d on the disk, %d in the TPM; key %d, of %d to %d",
		records, p.firstRecords, p.lastRecords, onDisk, inTPM, key, p.firstKeys-1, p.lastKeys)
	if records < p.firstRecords || records > p.lastRecords+1 {
		t.Errorf("%d records, want at least %d and at most %d", records, p.firstRecords, p.lastRecords+1)
	}
	if inTPM < onDisk {
		t.Errorf("the counter is %d on the disk and %d in the TPM, which is older", onDisk, inTPM)
	}
	if key < p.firstKeys-1 || key > p.lastKeys {
		t.Errorf("key %d, want %d to %d", key, p.firstKeys-1, p.lastKeys)
	}
	v.script(t, "shut")
	v.tpm(t, "8002 00000041 00000182 00000007 00000009 40000009 0000 00 0000 00000001 000b"+strings.Repeat("22", 32)) // PCR 7
	if answer := v.ask(t, "run luks.sh open"); strings.HasPrefix(answer, "0") || !strings.Contains(answer, "policy") {
		t.Errorf("with another PCR 7 the disk opens: %s", answer)
	}
	v.quit(t, v.e)
}

// fields reads the numbers in text.
func fields(text string, to ...*int) error {
	words := strings.Fields(text)
	if len(words) != len(to) {
		return fmt.Errorf("%d words", len(words))
	}
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			return err
		}
		*to[i] = n
	}
	return nil
}
