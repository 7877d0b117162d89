package setup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

var begun = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newLocation returns a state directory, and one with a stored TPM if stored is set.
func newLocation(t *testing.T, stored bool) *location {
	t.Helper()
	loc := parseLocation(t.TempDir(), tpm.V20)
	loc.warn = t.Errorf
	if stored {
		writeTo(t, loc.path, "tpm2-00.permall", "state", 0o600)
	}
	return loc
}

// TestDecide checks the decision for each combination of state and mark.
func TestDecide(t *testing.T) {
	done := &mark{Begun: begun, Done: begun.Add(time.Minute)}
	for _, tt := range []struct {
		name         string
		m            *mark
		stored       bool
		locked       bool
		create       bool
		message, err string
	}{
		{name: "nothing", create: true},
		{name: "interrupted", m: &mark{Begun: begun}, create: true},
		{name: "interrupted, under the lock", m: &mark{Begun: begun}, locked: true, create: true, message: "was interrupted; starting again."},
		{name: "lost", m: done, err: "is missing in "},
		{name: "another TPM", stored: true, message: "was not created by [manufacture]; leaving it unchanged."},
		{name: "complete", m: done, stored: true, message: "leaving it unchanged."},
		{name: "mark not complete", m: &mark{Begun: begun}, stored: true, message: "leaving it unchanged."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, loc := newFixture(t), newLocation(t, tt.stored)
			if tt.m != nil {
				if err := tt.m.write(loc.markFile()); err != nil {
					t.Fatal(err)
				}
			}
			if tt.locked {
				if err := loc.open(); err != nil {
					t.Fatal(err)
				}
				defer loc.close()
			}
			f.o.marked = true
			create, err := f.mayManufacture(loc)
			wantError(t, tt.name, err, tt.err)
			if create != tt.create || !strings.Contains(f.stdout.String(), tt.message) || tt.message == "" && f.stdout.Len() > 0 {
				t.Errorf("create %v, message %q; want %v, %q", create, &f.stdout, tt.create, tt.message)
			}
			if m, err := loc.mark(); tt.stored && tt.m != nil && (err != nil || m.Done.IsZero()) {
				t.Errorf("the mark of a stored TPM is %+v, %v", m, err)
			}
		})
	}
}

// TestMark checks that the record of a manufacture is written and read, and the errors.
func TestMark(t *testing.T) {
	loc := newLocation(t, false)
	at := loc.markFile()
	if m, err := readMark(at); m != nil || err != nil {
		t.Errorf("no mark: %v, %v", m, err)
	}
	if m, err := readMark(&markFile{"/nonexistent", "x"}); m != nil || err != nil {
		t.Errorf("no directory: %v, %v", m, err)
	}
	f := newFixture(t)
	if err := f.begin(loc); err != nil || !loc.begun.IsZero() {
		t.Errorf("begin without a profile: %v, %v", loc.begun, err)
	}
	f.o.marked = true
	if err := f.begin(loc); err != nil {
		t.Fatal(err)
	}
	if m, err := readMark(at); err != nil || m.Begun.IsZero() || !m.Done.IsZero() || m.when() != m.Begun {
		t.Errorf("after begin: %+v, %v", m, err)
	}
	if err := f.end(loc, []inventoryEntry{{Type: "ek", Key: "rsa2048"}}); err != nil {
		t.Fatal(err)
	}
	if m, err := readMark(at); err != nil || m.Done.IsZero() || m.when() != m.Done || len(m.Keys) != 1 || m.Keys[0].Key != "rsa2048" {
		t.Errorf("after end: %+v, %v", m, err)
	}
	for _, text := range []string{"", "{}", "nonsense", "[1]"} {
		writeTo(t, at.dir, at.name, text, 0o600)
		_, err := readMark(at)
		wantError(t, text, err, ": invalid record of a manufacture; remove it if no TPM can be lost")
	}
}

// TestMarkFile checks the place of the record for each kind of storage.
func TestMarkFile(t *testing.T) {
	dir := t.TempDir()
	image := writeTo(t, dir, "image", "", 0o600)
	if at := parseLocation("file://"+image, tpm.V20).markFile(); at == nil || at.path() != filepath.Join(dir, ".image.manufactured") {
		t.Errorf("next to a file: %v", at)
	}
	if at := parseLocation("file:///dev/null", tpm.V20).markFile(); at != nil {
		t.Errorf("next to a device: %v", at)
	}
	if m, err := parseLocation("file:///dev/null", tpm.V20).mark(); m != nil || err != nil {
		t.Errorf("mark of a device: %v, %v", m, err)
	}
	if !parseLocation("file://"+image, tpm.V20).cannotMark(os.ErrPermission) || parseLocation(dir, tpm.V20).cannotMark(os.ErrPermission) {
		t.Error("only the mark of a file is optional")
	}
}

// TestMayManufacture checks in which cases a TPM may be created or replaced.
func TestMayManufacture(t *testing.T) {
	for _, tt := range []struct {
		name   string
		o      options
		item   string
		create bool
		err    string
	}{
		{"new", options{}, "", true, ""},
		{"existing", options{}, "permall", false, "Found existing TPM state 'permall'."},
		{"volatile only", options{}, "volatilestate", false, "Found existing TPM state 'volatilestate'."},
		{"overwrite", options{Overwrite: true}, "permall", true, ""},
		{"not overwrite", options{NotOverwrite: true}, "permall", false, ""},
		{"not overwrite, nothing", options{NotOverwrite: true}, "", true, ""},
		{"not overwrite wins", options{NotOverwrite: true, Overwrite: true}, "permall", false, ""},
		{"reconfigure", options{Reconfigure: true}, "permall", true, ""},
		{"reconfigure nothing", options{Reconfigure: true}, "", false, "No TPM found in "},
	} {
		f, loc := newFixture(t), newLocation(t, false)
		if tt.item != "" {
			writeTo(t, loc.path, "tpm2-00."+tt.item, "x", 0o600)
		}
		f.o = &tt.o
		create, err := f.mayManufacture(loc)
		wantError(t, tt.name, err, tt.err)
		if create != tt.create {
			t.Errorf("%s: %v, want %v", tt.name, create, tt.create)
		}
		if logged := f.stdout.String() == "Not overwriting existing state file.\n"; logged != (tt.o.NotOverwrite && tt.item != "") {
			t.Errorf("%s: message %q", tt.name, &f.stdout)
		}
	}
}

// TestCommit checks that a new TPM replaces all items of an old one, and that a changed
// one leaves the others.
func TestCommit(t *testing.T) {
	for isNew, left := range map[bool]bool{true: false, false: true} {
		loc := newLocation(t, true)
		for _, name := range []string{"volatilestate", "savestate"} {
			writeTo(t, loc.path, "tpm2-00."+name, "old", 0o600)
		}
		if err := loc.open(); err != nil {
			t.Fatal(err)
		}
		if err := loc.open(); !errors.Is(err, nv.ErrLocked) {
			t.Errorf("a second open: %v", err)
		}
		if err := loc.commit([]byte("new"), isNew); err != nil {
			t.Fatal(err)
		}
		if err := loc.close(); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(loc.path + "/tpm2-00.permall"); string(b) != "new" || err != nil {
			t.Errorf("permanent state %q, %v", b, err)
		}
		if _, err := os.Stat(loc.path + "/tpm2-00.volatilestate"); (err == nil) != left {
			t.Errorf("new %v: volatile state %v", isNew, err)
		}
	}
	if err := (&location{}).close(); err != nil {
		t.Errorf("close without open: %v", err)
	}
}

// TestCheckLocation checks the errors about locations, and that only a profile creates a
// directory.
func TestCheckLocation(t *testing.T) {
	dir := t.TempDir()
	file := writeTo(t, dir, "file", "", 0o600)
	for _, tt := range []struct {
		o   options
		err string
	}{
		{options{}, "--tpm-state must be provided"},
		{options{State: dir}, ""},
		{options{State: "file://" + file}, ""},
		{options{State: "file://" + dir + "/new"}, ""},
		{options{State: "file://" + dir + "/a/b"}, "cannot access file " + dir + "/a/b: No such file or directory"},
		{options{State: file}, "cannot access directory " + file + ". Make sure it exists and is a directory."},
		{options{State: dir + "/missing"}, "cannot access directory "},
		{options{State: dir + "/a/b", create: true}, ""},
		{options{State: dir, CertDir: dir + "/missing"}, "cannot access directory "},
		{options{State: dir, ECC: true}, "--ecc requires --tpm2."},
		{options{State: dir, TPM2: true, RemoveDisable: "x"}, "Unsupported parameter"},
	} {
		f := newFixture(t)
		f.o = &tt.o
		_, err := f.checkLocation()
		wantError(t, tt.o.State, err, tt.err)
	}
	loc := parseLocation(dir+"/a/b", tpm.V20)
	loc.create, loc.warn = true, t.Errorf
	if item, err := loc.existing(); item != "" || err != nil {
		t.Errorf("a missing directory: %q, %v", item, err)
	}
	if err := loc.open(); err != nil {
		t.Fatal(err)
	}
	if err := loc.close(); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(dir + "/a/b"); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the created directory: %v, %v", st, err)
	}
}

// TestSweep checks which directories of killed setups are removed.
func TestSweep(t *testing.T) {
	f, loc := newFixture(t), newLocation(t, false)
	if err := os.Chmod(loc.path, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".swtpm_setup.1": 0o700, ".swtpm_setup.2": 0o755, ".swtpm_setup.x": 0o700, "other": 0o700} {
		if err := os.Mkdir(filepath.Join(loc.path, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	writeTo(t, loc.path, ".swtpm_setup.1/tpm2-00.permall", "secret", 0o600)
	f.sweep(loc)
	for name, left := range map[string]bool{".swtpm_setup.1": false, ".swtpm_setup.2": true, ".swtpm_setup.x": true, "other": true} {
		if _, err := os.Stat(filepath.Join(loc.path, name)); (err == nil) != left {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := f.stdout.String(); got != "Removed "+loc.path+"/.swtpm_setup.1, left by a killed setup.\n" {
		t.Errorf("message %q", got)
	}
	if got := f.stderr.String(); !strings.HasPrefix(got, "Not removing "+loc.path+"/.swtpm_setup.2, possibly left by a killed setup: not a directory of this user with mode 0700") {
		t.Errorf("error %q", got)
	}
}
