package guest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/test/harness"
)

// keepVar names a directory for the ledgers and variable stores of the cases, from which the
// documents are made.
const keepVar = "SWTPM_GUEST_KEEP"

// keep copies the ledger in a state, and the variable stores among the options of swtpm boots.
func keep(t *testing.T, name, state string, options []string) {
	t.Helper()
	if os.Getenv(keepVar) == "" {
		return
	}
	dir := filepath.Join(os.Getenv(keepVar), strings.ReplaceAll(t.Name()+" "+name, " ", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(state, "tpm2-00.boot-*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range options {
		if o == "--vars" {
			files = append(files, options[i+1])
		}
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), []byte(harness.Read(t, f)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// allBootsVar makes TestBoots try all its boots instead of the first ones.
const allBootsVar = "SWTPM_GUEST_BOOTS"

// selections are the PCRs that secrets are sealed to.
var selections = []string{"7", "4+7", "11", "0", "9", "1"}

// selected returns the PCRs of a selection.
func selected(t *testing.T, selection string) (all []uint) {
	t.Helper()
	for word := range strings.SplitSeq(selection, "+") {
		pcr, err := strconv.ParseUint(word, 10, 5)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, uint(pcr))
	}
	return all
}

// expected is the answer of explain for a selection: the PCR whose first change it names.
type expected struct {
	selection  string
	pcr, place int
	object     string // in the name of the new measurement
	unchanged  []int  // other PCRs of the selection
	also       []int  // a further PCR that changes, and the position
}

// bootCase is a boot after which some secrets do not open.
type bootCase struct {
	name   string
	change func(t *testing.T, w *workshop, m *uefiMachine)
	want   []expected
}

var bootCases = []bootCase{
	{"an update of dbx", func(t *testing.T, w *workshop, m *uefiMachine) { m.vars = w.changeDBX(t, m.vars) }, []expected{
		{"7", 7, 5, "Secure Boot variable dbx: ", nil, nil},
		{"4+7", 7, 5, "Secure Boot variable dbx: ", []int{4}, nil},
	}},
	{"another firmware", func(_ *testing.T, _ *workshop, m *uefiMachine) { m.code = ovmf + "OVMF_CODE_4M.secboot.fd" }, []expected{
		{"0", 0, 2, "firmware volume 1 of the firmware", nil, nil},
	}},
	{"another command line", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.disk(t, w.kernel, commandLine+" panic=1")}
	}, []expected{
		{"4+7", 4, 3, "image BOOTX64.EFI", []int{7}, nil},
		{"11", 11, 6, "content of section .cmdline of BOOTX64.EFI", nil, nil},
		{"9", 9, 1, `kernel command line "` + commandLine + ` panic=1"`, nil, nil},
	}},
	{"no Secure Boot keys", func(_ *testing.T, _ *workshop, m *uefiMachine) { m.vars = ovmf + "OVMF_VARS_4M.fd" }, []expected{
		{"7", 7, 2, "Secure Boot variable PK: empty", nil, nil},
		{"4+7", 7, 2, "Secure Boot variable PK: empty", []int{4}, nil},
	}},
	{"another kernel", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.disk(t, w.otherKernel(t), commandLine)}
	}, []expected{
		{"4+7", 4, 3, "image BOOTX64.EFI", []int{7}, nil},
		{"11", 11, 2, "content of section .linux of BOOTX64.EFI", nil, nil},
	}},
	{"another boot entry", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.disk(t, w.kernel, commandLine+" rescue"), m.disks[0]}
	}, []expected{
		{"1", 1, 1, "boot order ", nil, nil},
		{"4+7", 4, 3, "image BOOTX64.EFI", []int{7}, nil},
		{"11", 11, 6, "content of section .cmdline of BOOTX64.EFI", nil, nil},
	}},
}

// explanation is the part of the output of swtpm boots explain that the test checks.
type explanation struct {
	Summary  string
	Failures []struct {
		PCRs    string `json:"pcrs"`
		Good    uint64 `json:"last_good_boot"`
		Since   uint64 `json:"since_boot"`
		Result  uint32
		Details []struct {
			PCR   int
			Same  bool
			First *struct {
				Place int `json:"position"`
				New   *struct {
					Name struct{ Text, Source string }
				}
			}
		}
	}
	Logs []struct{ Agrees bool }
}

// askBoots runs swtpm boots.
func askBoots(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(bin, append([]string{"boots"}, args...)...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("%v: %v\n%s", cmd, err, complaints.String())
	}
	return string(out)
}

// check compares an explanation with an expectation. systemd has the selections whose policies
// systemd compares itself.
func (x expected) check(t *testing.T, e explanation, systemd []string) bool {
	t.Helper()
	name := "PCR " + strings.ReplaceAll(x.selection, "+", ", ") + " (sha256)"
	for _, f := range e.Failures {
		if f.PCRs != name {
			continue
		}
		good := f.Good != 0 && f.Since == f.Good+1
		if slices.Contains(systemd, x.selection) { // systemd was the first to fail
			good = good && f.Result == ledger.NotUsed
		}
		for _, d := range f.Details {
			switch {
			case slices.Contains(x.unchanged, d.PCR):
				good = good && d.Same
			case d.First == nil || d.First.New == nil:
				good = false
			case len(x.also) > 0 && d.PCR == x.also[0]:
				good = good && d.First.Place == x.also[1]
			default:
				good = good && d.PCR == x.pcr && d.First.Place == x.place && strings.Contains(d.First.New.Name.Text, x.object)
				if d.PCR == 0 || d.PCR == 7 { // without help from the guest
					good = good && !strings.HasPrefix(d.First.New.Name.Source, "log")
				}
			}
		}
		if !good || len(f.Details) != len(x.unchanged)+1+len(x.also)/2 {
			t.Errorf("secret over %s: want PCR %d, measurement %d, %q", x.selection, x.pcr, x.place, x.object)
		}
		return good
	}
	t.Errorf("secret over %s: no failure is explained", x.selection)
	return false
}

// TestBoots checks that swtpm boots explain names PCR, position and object of the change
// after which a real guest cannot open its secrets.
func TestBoots(t *testing.T) {
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	cases := bootCases
	if os.Getenv(allBootsVar) == "" {
		cases = cases[:2]
	}
	w := newWorkshop(t)
	state := harness.TempDir(t)
	oneBank(t, state)
	good := uefiMachine{code: ovmf + "OVMF_CODE_4M.fd", vars: w.keysWithoutEnforcement(t), disks: []string{w.disk(t, w.kernel, commandLine)}, volume: w.volume(t)}
	e := startEmulator(t, recording(t), true, state)
	v, goodVars := good.boot(t, w, e)
	g := guestTPM{t, v}
	parent := g.parent()
	secrets := map[string]sealed{}
	for _, name := range selections {
		secrets[name] = g.seal(parent, selected(t, name))
		if !g.opens(parent, secrets[name]) {
			t.Fatalf("the secret over %s does not open", name)
		}
	}
	v.enroll(t)
	log := w.write(t, "guest.log", harness.Unhex(v.ask(t, "bytes 200000 /sys/kernel/security/tpm0/binary_bios_measurements")))
	v.quit(t, e)
	checkExport(t, state)

	original := &sealedBoot{good, state, goodVars, log, secrets}
	named, all := 0, 0
	for _, c := range cases {
		named, all = named+c.run(t, w, original), all+len(c.want)
	}
	t.Logf("%d of %d changes named", named, all)
	if os.Getenv(allBootsVar) != "" {
		sameAgain(t, w, state, good)
	}
}

// sealedBoot is the boot in which the secrets were sealed.
type sealedBoot struct {
	uefiMachine
	state   string // directory of the TPM after it
	vars    string // variable store after it
	log     string // the guest's log
	secrets map[string]sealed
}

// run boots the changed machine and returns the number of changes that explain names.
func (c bootCase) run(t *testing.T, w *workshop, original *sealedBoot) (named int) {
	t.Helper()
	state := copyState(t, original.state)
	m := original.uefiMachine
	c.change(t, w, &m)
	e := startEmulator(t, recording(t), true, state)
	m.volume = w.copyVolume(t, m.volume)
	v, vars := m.boot(t, w, e)
	c.tryAll(t, guestTPM{t, v}, e, original.secrets)
	v.quit(t, e)
	args := []string{"explain", "--tpmstate", "dir=" + state, "--vars", original.vars, "--vars", vars,
		"--firmware", original.code, "--firmware", m.code, "--guest-log", original.log}
	for _, d := range slices.Concat(original.disks, m.disks) {
		args = append(args, "--images", d)
	}
	t.Logf("%s:\n%s", c.name, askBoots(t, args...))
	keep(t, c.name, state, []string{"--vars", original.vars, "--vars", vars})
	var x explanation
	if err := json.Unmarshal([]byte(askBoots(t, append(args, "--json")...)), &x); err != nil {
		t.Fatal(err)
	}
	if len(x.Logs) != 1 || !x.Logs[0].Agrees {
		t.Errorf("%s: the guest's log of the first boot", c.name)
	}
	for _, want := range c.want {
		if want.check(t, x, enrolled) {
			named++
		}
	}
	return named
}

// fails reports whether the secrets over a selection do not open.
func (c bootCase) fails(selection string) bool {
	return slices.ContainsFunc(c.want, func(x expected) bool { return x.selection == selection })
}

// tryAll tries systemd's tokens of the volume, then the other secrets.
func (c bootCase) tryAll(t *testing.T, g guestTPM, e *emulator, secrets map[string]sealed) {
	t.Helper()
	g.v.ask(t, "take /volume")
	gaveUp := 0
	for n, selection := range enrolled {
		if opens := g.v.unlocks(t, n); opens == c.fails(selection) {
			t.Errorf("%s: the token over %s opens: %t", c.name, selection, opens)
		}
		if c.fails(selection) {
			gaveUp++
		}
	}
	harness.Await(t, "the failures of systemd in the log", func() bool {
		return strings.Count(harness.Read(t, e.log), "policy not used: the guest did not use") == gaveUp
	})
	parent := g.parent()
	for name, s := range secrets {
		if opens := g.opens(parent, s); c.fails(name) && opens {
			t.Errorf("%s: the secret over %s opens", c.name, name)
		}
	}
}

// sameAgain boots the same machine again: nothing changed.
func sameAgain(t *testing.T, w *workshop, state string, m uefiMachine) {
	t.Helper()
	e := startEmulator(t, recording(t), true, state)
	v, _ := m.boot(t, w, e)
	v.ask(t, "take /volume")
	for n, selection := range enrolled {
		if !v.unlocks(t, n) {
			t.Errorf("the same machine: the token over %s does not open", selection)
		}
	}
	v.quit(t, e)
	var x explanation
	if err := json.Unmarshal([]byte(askBoots(t, "explain", "--json", "--tpmstate", "dir="+state)), &x); err != nil {
		t.Fatal(err)
	}
	if x.Summary != "nothing changed" || len(x.Failures) != 0 {
		t.Errorf("the same machine: %+v", x)
	}
}

// recording returns a program that runs the emulator on a host whose TPMs all record their
// boots.
func recording(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a namespace with its own host.toml")
	}
	dir := harness.TempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "host.toml"), []byte("[ledger]\nkeep = \"boots\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/etc/swtpm", 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "swtpm")
	text := fmt.Sprintf("#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /etc/swtpm && exec \"$@\"' %q %q \"$@\"\n", dir, bin)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// oneBank makes a TPM with only a SHA-256 bank: the firmware computes fewer digests.
func oneBank(t *testing.T, state string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(filepath.Dir(bin), "swtpm-setup"), "--tpm2", "--tpmstate", state, "--tpm", bin+" socket", "--pcr-banks", "sha256")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

func copyState(t *testing.T, state string) string {
	t.Helper()
	dir := filepath.Join(harness.TempDir(t), "state")
	if err := os.CopyFS(dir, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkExport checks that tpm2_eventlog computes the values of the TPM from an export.
func checkExport(t *testing.T, state string) {
	t.Helper()
	var show struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal([]byte(askBoots(t, "show", "--json", "--tpmstate", "dir="+state)), &show); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(harness.TempDir(t), "log")
	if err := os.WriteFile(path, []byte(askBoots(t, "export", "--format", "tcg2", "--tpmstate", "dir="+state)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(need(t, "tpm2_eventlog", "tpm2-tools"), path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pcr := range []string{"0", "1", "4", "5", "7", "9", "11"} {
		if value := show.PCRs["sha256"][pcr]; len(value) != 64 || !strings.Contains(string(out), "0x"+value) {
			t.Errorf("tpm2_eventlog does not compute PCR %s: %s", pcr, value)
		}
	}
}
