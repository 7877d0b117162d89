package boots

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// TestNotTheLast checks that a boot is not called the last one if a later one cannot be read, and that the
// list is in the order of the boots.
func TestNotTheLast(t *testing.T) {
	log := realLog(t)
	h := damagedHistory(t, map[uint64]int{1: 0, 3: 0}, record(1, log), record(2, log).policy(0, 7).end(), record(3, log))
	if text := newFiles().Explain(h, nil).Text(); strings.Contains(text, "the last one:") || !strings.Contains(text, "Boot 2, the last one that can be read:") {
		t.Error(text)
	}
	for i, line := range strings.Split(strings.TrimSpace(h.List().Text()), "\n") {
		if !strings.HasPrefix(line, string(rune('1'+i))+"  ") {
			t.Errorf("line %d is %q", i+1, line)
		}
	}
}

// TestDenied checks that a file that may not be read is not called damaged.
func TestDenied(t *testing.T) {
	dir := t.TempDir()
	write := func(n uint64, mode os.FileMode) {
		name := filepath.Join(dir, ledger.Name("tpm2-00", n))
		if err := os.WriteFile(name, record(n, realLog(t)).policy(0, 7).end().file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(2, 0)
	asNobody(t, dir)
	if _, err := Load(dir, "tpm2-00"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "as root") {
		t.Errorf("no readable boot: %v", err)
	}
	write(1, 0o600)
	h, err := Load(dir, "tpm2-00")
	if err != nil || len(h.Damaged) != 0 || len(h.Denied) != 1 || len(h.Warnings) != 1 {
		t.Fatalf("%v, %+v", err, h)
	}
	for name, text := range map[string]string{"list": h.List().Text(), "explain": newFiles().Explain(h, nil).Text()} {
		if !strings.Contains(text, "permission denied") || strings.Contains(text, "damaged") || strings.Contains(text, "No policy over PCRs fails") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

// asNobody makes the thread of the test use the files of dir as a user without rights.
func asNobody(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	const nobody = 65534
	for _, path := range []string{dir, filepath.Join(dir, ledger.Name("tpm2-00", 2))} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	for up := filepath.Dir(dir); up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setresuid(-1, nobody, -1); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := unix.Setresuid(-1, 0, -1); err != nil {
			panic(err)
		}
	})
}

// TestOpenedThenFailed checks that a secret that opened and failed later in the same boot needs no
// enrolment, and that the first boot in which it never opened is named otherwise.
func TestOpenedThenFailed(t *testing.T) {
	log := realLog(t)
	h := history(t, record(1, log).policy(0, 7).policy(0x99d, 7).end())
	text := newFiles().Explain(h, nil).Text()
	if !strings.Contains(text, "opened before in the same boot") || strings.Contains(text, "cryptenroll") || strings.Contains(text, "seal again") {
		t.Error(text)
	}
	if list := h.List().Text(); !strings.Contains(list, "opened, then failed") {
		t.Error(list)
	}
	h = history(t, record(1, log).policy(0, 7).policy(0x99d, 7).end(), record(2, replaced(log, 3, []byte("x"))).policy(0x99d, 7).end())
	if f, _ := h.failures(); len(f) != 1 || f[0].Opened || f[0].Boot.Boot.Boot != 2 || f[0].Good.Boot.Boot != 1 || f[0].Times != 1 {
		t.Errorf("%+v", f)
	}
}

// TestJoinedNames checks that measurements of a boot without its beginning get no names by position.
func TestJoinedNames(t *testing.T) {
	r := &recording{}
	r.file = r.w.AppendHeader(nil, ledger.Header{Boot: 1})
	r.add(ledger.KindValues, ledger.AppendValues(nil, ledger.Joined, initial()))
	r.extend(7, []ledger.Digest{{Alg: ledger.SHA256, Value: make([]byte, 32)}})
	h := history(t, r)
	text := newFiles().Show(h, h.Boots[0]).Text()
	if strings.Contains(text, "by its position") || !strings.Contains(text, "the ledger of the host that it came from has the beginning") {
		t.Error(text)
	}
}
