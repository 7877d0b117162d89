//go:build cgo

package anchor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/selftest"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/nv/mark"
)

// fixture is an anchor with an emulator as the host's TPM, and a mark.
type fixture struct {
	*Anchor
	t    *testing.T
	dir  *mark.Dir
	mark generation.Mark
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	m, stop, err := selftest.NewMachine(libtpms.Engine())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if err := m.Restart(nil); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	f := &fixture{t: t, Anchor: &Anchor{TPM: m, File: filepath.Join(root, "anchor.json"), Marks: filepath.Join(root, "marks")}}
	if err := os.Mkdir(f.Marks, 0o700); err != nil {
		t.Fatal(err)
	}
	if f.dir, err = mark.Open(f.Marks); err != nil {
		t.Fatal(err)
	}
	f.mark.Identity = generation.NewIdentity()
	f.store(5)
	return f
}

// store writes the mark of generation n.
func (f *fixture) store(n uint64) {
	f.t.Helper()
	f.mark.Known[0], f.mark.Time = n, time.Unix(int64(n), 0)
	if err := f.dir.Write(f.mark); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) update() {
	f.t.Helper()
	if err := f.Update(time.Unix(1e9, 0)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) want(what string, err error) {
	f.t.Helper()
	if got := f.Check(); !errors.Is(got, err) {
		f.t.Errorf("%s: Check = %v, want %v", what, got, err)
	}
}

// TestAnchor checks that marks may go forward, and that an old file, an old mark and a
// missing one are found.
func TestAnchor(t *testing.T) {
	f := newFixture(t)
	f.want("without a counter", fs.ErrNotExist)
	f.update()
	f.want("after an update", nil)
	old, err := os.ReadFile(f.File)
	if err != nil {
		t.Fatal(err)
	}
	f.store(7)
	f.want("after a store", nil)
	f.update()
	f.want("after the second update", nil)

	f.store(6)
	f.want("with an old mark", ErrRolledBack)
	if err := f.Update(time.Now()); !errors.Is(err, ErrRolledBack) {
		t.Errorf("Update with an old mark: %v", err)
	}
	f.store(7)
	f.want("with the mark again", nil)

	newer, err := os.ReadFile(f.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.File, old, 0o600); err != nil {
		t.Fatal(err)
	}
	f.want("with the old file", ErrRolledBack)
	if err := os.WriteFile(f.File, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	f.want("with the file again", nil)

	if err := os.RemoveAll(f.Marks); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.Marks, 0o700); err != nil {
		t.Fatal(err)
	}
	f.want("without marks", ErrRolledBack)
	if err := os.Remove(f.File); err != nil {
		t.Fatal(err)
	}
	f.want("without the file", ErrRolledBack)
	if err := f.Update(time.Now()); !errors.Is(err, ErrRolledBack) {
		t.Errorf("Update without the file: %v", err)
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	f.want("after Remove", fs.ErrNotExist)
	if err := f.Remove(); err != nil {
		t.Errorf("a second Remove: %v", err)
	}
}

// TestCrash checks that a crash after the file was written and before the counter was
// advanced is no alarm, and that a damaged file is an error.
func TestCrash(t *testing.T) {
	f := newFixture(t)
	f.update()
	working := f.TPM
	f.TPM = refuses{working}
	if err := f.Update(time.Now()); err == nil {
		t.Fatal("Update without a TPM succeeded")
	}
	f.TPM = working
	f.want("after a crash", nil)
	f.update()
	f.want("after the next update", nil)
	if err := os.WriteFile(f.File, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); err == nil || errors.Is(err, ErrRolledBack) {
		t.Errorf("Check of a damaged file: %v", err)
	}
}

// refuses is a TPM that does not take NV_Increment.
type refuses struct{ selftestTPM }

type selftestTPM interface{ Send([]byte) ([]byte, error) }

func (r refuses) Send(cmd []byte) ([]byte, error) {
	if len(cmd) > 10 && tpm2.TPMCC(cmd[8])<<8|tpm2.TPMCC(cmd[9]) == tpm2.TPMCCNVIncrement {
		return nil, errors.New("no power")
	}
	return r.selftestTPM.Send(cmd)
}
