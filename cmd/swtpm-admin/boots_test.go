package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestBootsNone checks the errors without a ledger: only with a profile the setting is known.
func TestBootsNone(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for state, want := range map[string]string{
		"dir=" + dir:     "boots: " + dir + ": no boot recorded; a ledger begins at the next power-on, unless",
		"dir=" + missing: "boots: state directory: open " + missing + ": no such file or directory; correct --tpmstate",
	} {
		o := &bootsOptions{tpmstate: state}
		if err := o.run([]string{"list"}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", state, err, want)
		}
	}
	o := &bootsOptions{cfg: &config.Config{}}
	o.cfg.Ledger.Keep = config.KeepNone
	if err := o.none(dir); !strings.Contains(err.Error(), "boots are not recorded") {
		t.Errorf("with a profile: %v", err)
	}
}

// TestExportDamaged checks that the export of a boot whose record is damaged ends there in each format, with
// exit status 1, and that the export of an intact boot succeeds.
func TestExportDamaged(t *testing.T) {
	dir := t.TempDir()
	var w ledger.Writer
	file := w.AppendHeader(nil, ledger.Header{TPM: tpm.V20, Boot: 1})
	digest := ledger.Digest{Alg: ledger.SHA256, Value: make([]byte, ledger.SHA256.Size())}
	file = w.Append(file, ledger.Record{Kind: ledger.KindStartup, Body: []byte{0, 0}})
	values := ledger.Bank{Alg: ledger.SHA256, Mask: 1<<ledger.PCRs - 1, Values: slices.Repeat([][]byte{make([]byte, ledger.SHA256.Size())}, ledger.PCRs)}
	file = w.Append(file, ledger.Record{Kind: ledger.KindValues, Body: ledger.AppendValues(nil, ledger.Initial, []ledger.Bank{values})})
	for range 2 {
		file = w.Append(file, ledger.Record{Kind: ledger.KindExtend, Body: ledger.Extend{Index: 7, Code: 0x182, Digests: []ledger.Digest{digest}}.Append(nil)})
	}
	for damage, want := range map[bool]string{
		false: "",
		true:  "boots: boot 1: its record is damaged: the export ends with record 3",
	} {
		file := slices.Clone(file)
		if damage {
			file[len(file)-1] ^= 1
		}
		if err := os.WriteFile(filepath.Join(dir, ledger.Name("tpm2-00", 1)), file, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, format := range boots.Formats {
			out, err := exported(t, dir, format)
			if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
				t.Errorf("%s, damaged = %v: %v, want %q", format, damage, err, want)
			}
			var exit *program.ExitError
			if errors.As(err, &exit) && exit.Code != 1 {
				t.Errorf("%s: exit status %d", format, exit.Code)
			}
			if len(out) == 0 {
				t.Errorf("%s, damaged = %v: nothing was exported", format, damage)
			}
		}
	}
}

// exported returns what boots export prints.
func exported(t *testing.T, dir, format string) ([]byte, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := os.Stdout
	os.Stdout = f
	defer func() { os.Stdout = old }()
	o := &bootsOptions{tpmstate: "dir=" + dir, format: format}
	failed := o.run([]string{"export"})
	out, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out, failed
}
