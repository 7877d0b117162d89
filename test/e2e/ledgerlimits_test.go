package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// extendsVar is the number of extends of TestLedgerExtends.
const extendsVar = "SWTPM_TEST_LEDGER_EXTENDS"

// TestLedgerExtends checks that a guest that extends a PCR without end fills neither the disk nor
// the memory, and that the records give the value in the end.
func TestLedgerExtends(t *testing.T) {
	needRoot(t, "the emulator lets nobody else read its memory map")
	skipWithRace(t)
	t.Parallel()
	const (
		fewKB = 256     // more memory after 10,000 extends
		maxKB = 2560    // after any number: the heap before its first collection, and the collector
		file  = 1 << 18 // bytes: 4,096 records of about 54 bytes
	)
	extends := 10000
	if n, err := strconv.Atoi(os.Getenv(extendsVar)); err == nil {
		extends = n
	}
	everyVersion(t, func(t *testing.T, v version) {
		m := &measured{resumableTPM: newRecorded(t, v, false), Rand: rand.New(rand.NewPCG(1, 1)), did: map[string]int{}}
		pid := m.Cmd.Process.Pid
		value, before := make([]byte, len(m.pcr(t))), 0
		for n := range uint64(extends) {
			var cmd string
			cmd, value = v.extend(n, value)
			m.data.ok(t, cmd)
			if n == 1000 {
				before = anonymousKiB(t, pid)
			}
		}
		if got := m.pcr(t); !slices.Equal(got, value) {
			t.Fatalf("PCR 10 is %x, want %x", got, value)
		}
		grown := anonymousKiB(t, pid) - before
		want := m.pcrs(t)
		if err := m.ctrl.Stop(); err != nil {
			t.Fatal(err)
		}
		b, joined := m.endedBoot(t, want)
		var missing uint64
		for _, r := range b.Records {
			if r.Kind == ledger.KindOverflow {
				o, err := r.Overflow()
				if err != nil {
					t.Fatal(err)
				}
				missing += o.Records
			}
		}
		fi, err := os.Stat(filepath.Join(m.dir, "state", ledger.Name(v.prefix(), b.Boot)))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d extends: %d records, %d counted, %d bytes; memory grew by %d kB", extends, len(b.Records), missing, fi.Size(), grown)
		if joined || len(b.Records) > ledger.MaxRecords || fi.Size() > file || missing == 0 {
			t.Errorf("joined %t; %d records, %d counted, %d bytes", joined, len(b.Records), missing, fi.Size())
		}
		if limit := min(fewKB*(extends/10000+1), maxKB); grown > limit {
			t.Errorf("memory grew by %d kB, want at most %d", grown, limit)
		}
	})
}

// everyVersion runs f for each version.
func everyVersion(t *testing.T, f func(*testing.T, version)) {
	t.Helper()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			f(t, v)
		})
	}
}

// pcr returns the value of PCR 10 in the first bank that extend changes.
func (m *measured) pcr(t *testing.T) []byte {
	t.Helper()
	alg := ledger.SHA256
	if m.v == v12 {
		alg = ledger.SHA1
	}
	for _, b := range m.pcrs(t) {
		if b.Alg == alg {
			return b.Value(10)
		}
	}
	t.Fatalf("no bank %v", alg)
	return nil
}

// changed returns a disturbance that changes the file of the first boot.
func changed(change func(path string) error) func(*testing.T, *measured) {
	return func(t *testing.T, m *measured) {
		t.Helper()
		if err := change(filepath.Join(m.dir, "state", ledger.Name(m.v.prefix(), 1))); err != nil {
			t.Fatal(err)
		}
	}
}

// replaced returns a disturbance that puts something in the place of the file of the first boot.
func replaced(by func(path string) error) func(*testing.T, *measured) {
	return changed(func(path string) error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return by(path)
	})
}

// disturbances are what can happen to the boot ledger during a boot.
var disturbances = map[string]func(*testing.T, *measured){
	"truncated":    changed(func(path string) error { return os.Truncate(path, 70) }),
	"empty":        changed(func(path string) error { return os.Truncate(path, 0) }),
	"huge":         changed(func(path string) error { return os.Truncate(path, 8<<30) }),
	"bits flipped": changed(flipBits),
	"foreign file": changed(func(path string) error {
		return os.WriteFile(path, []byte(strings.Repeat("not a ledger\n", 100)), 0o600)
	}),
	"removed":   changed(os.Remove),
	"link":      replaced(func(path string) error { return os.Symlink("/etc/passwd", path) }),
	"FIFO":      replaced(func(path string) error { return unix.Mkfifo(path, 0o600) }),
	"directory": replaced(func(path string) error { return os.Mkdir(path, 0o700) }),
	"full disk": fullDuringBoot,
	"missing":   missingDuringBoot,
}

// TestLedgerDisturbed checks that nothing in the place of the boot ledger and no state of its disk
// disturbs the TPM: all commands succeed, the log has at most one line of each boot, and the next
// boot on a disk that works is recorded.
func TestLedgerDisturbed(t *testing.T) {
	t.Parallel()
	for name, disturb := range disturbances {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyVersion(t, func(t *testing.T, v version) {
				if !v.runs(name == "full disk" || name == "truncated") {
					return // both have the same recorder; make full runs it
				}
				m := &measured{Rand: rand.New(rand.NewPCG(2, 2)), did: map[string]int{}}
				m.resumableTPM = newRecorded(t, v, false, func(state string) {
					if name == "full disk" {
						mountAt(t, "tmpfs", state, "tmpfs", "size=256k,mode=700")
					}
				})
				awaitBoot(t, filepath.Join(m.dir, "state"), v)
				disturb(t, m)
				const extends = 300 // more than the memory of the recorder
				for range extends {
					m.extendAny(t)
				}
				if lines := strings.Count(m.Out.String(), "boot ledger"); lines > 1 {
					t.Errorf("%d lines:\n%s", lines, m.Out.String())
				}
				if name == "full disk" || name == "missing" {
					m.says(t, "boot ledger not written until the next power-on")
					workingDisk(t, m)
				}
				m.recordsAgain(t)
			})
		})
	}
}

// recordsAgain checks that the next boot is recorded.
func (m *measured) recordsAgain(t *testing.T) {
	t.Helper()
	banks := len(m.pcrs(t))
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := m.ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	m.data.ok(t, m.data.startup())
	m.extendAny(t)
	want := m.pcrs(t)
	if len(want) != banks {
		t.Errorf("%d banks, want %d", len(want), banks)
	}
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	m.boot = 0
	if b, joined := m.endedBoot(t, want); joined {
		t.Errorf("boot %d is joined", b.Boot)
	}
}

// flipBits flips a bit in each part of a file.
func flipBits(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for i := 7; i < len(b); i += 40 {
		b[i] ^= 1 << (i % 8)
	}
	return os.WriteFile(path, b, 0o600)
}

// fullDuringBoot fills the disk.
func fullDuringBoot(t *testing.T, m *measured) {
	t.Helper()
	fill(t, filepath.Join(m.dir, "state", "filler"))
}

// missingDuringBoot moves the directory away.
func missingDuringBoot(t *testing.T, m *measured) {
	t.Helper()
	state := filepath.Join(m.dir, "state")
	if err := os.Rename(state, state+".away"); err != nil {
		t.Fatal(err)
	}
}

// workingDisk ends what fullDuringBoot or missingDuringBoot did to the disk.
func workingDisk(t *testing.T, m *measured) {
	t.Helper()
	state := filepath.Join(m.dir, "state")
	if _, err := os.Stat(state + ".away"); err == nil {
		if err := os.Rename(state+".away", state); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(state, "filler")); err != nil {
		t.Fatal(err)
	}
}
