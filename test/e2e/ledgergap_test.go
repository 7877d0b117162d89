package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// gapTPM is a TPM that is off, with a boot in its ledger.
type gapTPM struct {
	v          version
	dir, state string
}

// Statements of swtpm boots and of the log about the TPM of two boots.
const (
	unknownTPM   = "whether it is the same TPM is not known"
	anotherTPM   = "another TPM (new identity)"
	loggedTPM    = "this TPM is not the one of boot"
	harmfulSteps = "restore the state of the TPM of boot"
)

// TestLedgerGap checks what the log and swtpm boots say of the TPM after swtpm stored its state, after
// each verb that stores a state, and after the TPM was replaced.
func TestLedgerGap(t *testing.T) {
	t.Parallel()
	theirs := harness.Reference(t)
	hop := func(t *testing.T, g *gapTPM) { g.boot(t, theirs, 2) }
	for name, tt := range map[string]struct {
		between func(*testing.T, *gapTPM)
		want    string // in the list; "" if it is the same TPM
		v12     bool   // also with a TPM 1.2
	}{
		"nothing":               {func(*testing.T, *gapTPM) {}, "", false},
		"swtpm":                 {hop, unknownTPM, true},
		"swtpm, accept":         {func(t *testing.T, g *gapTPM) { hop(t, g); stateVerb(t, "accept", g.state) }, unknownTPM, false},
		"swtpm, rekey":          {func(t *testing.T, g *gapTPM) { hop(t, g); g.rekey(t) }, unknownTPM, false},
		"swtpm, export, import": {func(t *testing.T, g *gapTPM) { hop(t, g); g.export(t); g.restore(t) }, unknownTPM, false},
		"export, swtpm, import": {func(t *testing.T, g *gapTPM) { g.export(t); hop(t, g); g.restore(t) }, "", false},
		"rekey":                 {func(t *testing.T, g *gapTPM) { g.rekey(t) }, "", false},
		"replaced":              {func(t *testing.T, g *gapTPM) { g.replace(t) }, anotherTPM, false},
		"swtpm, lost":           {func(t *testing.T, g *gapTPM) { hop(t, g); g.lose(t) }, anotherTPM, false},
		"swtpm, reconfigure": {func(t *testing.T, g *gapTPM) {
			hop(t, g)
			g.setup(t, g.state, "--reconfigure", "--pcr-banks", "sha256")
		}, unknownTPM, false},
		"replaced by a clone": {func(t *testing.T, g *gapTPM) { g.replace(t, "--clone", "dir://"+g.state) }, anotherTPM, false},
		"lost":                {func(t *testing.T, g *gapTPM) { g.lose(t) }, anotherTPM, true},
	} {
		for _, v := range both {
			if v == v12 && !tt.v12 {
				continue
			}
			t.Run(name+" "+string(v), func(t *testing.T) {
				t.Parallel()
				g := newGapTPM(t, v)
				log := g.boot(t, ours("swtpm"), 1)
				tt.between(t, g)
				log += g.boot(t, ours("swtpm"), 3)
				g.says(t, tt.want, log)
				g.says(t, tt.want, g.boot(t, ours("swtpm"), 0))
			})
		}
	}
}

// TestLedgerOfNewTPM checks that a TPM that swtpm_setup makes in the place of another one begins a new
// ledger.
func TestLedgerOfNewTPM(t *testing.T) {
	t.Parallel()
	g := newGapTPM(t, v20)
	g.boot(t, ours("swtpm"), 1)
	g.setup(t, g.state, "--overwrite")
	g.boot(t, ours("swtpm"), 0)
	if list := mustRun(t, ours("swtpm"), "boots", "--tpmstate", "dir="+g.state); strings.Count(list, "\n") != 1 || !strings.Contains(list, "first recorded boot") {
		t.Error(list)
	}
}

func newGapTPM(t *testing.T, v version) *gapTPM {
	t.Helper()
	g := &gapTPM{v: v, dir: harness.TempDir(t)}
	g.state = filepath.Join(g.dir, "state")
	mkdir(t, g.state)
	return g
}

// boot runs the TPM once, and returns the log. It defines the NV index if number is 1, and writes
// it if number is higher and the TPM has it.
func (g *gapTPM) boot(t *testing.T, program string, number uint64) string {
	t.Helper()
	e := start(t, setup{program: program, tpm: g.v, state: g.state})
	ch := e.power(t, g.v)
	switch number {
	case 1:
		ch.define(t)
	case 2, 3:
		if err := ch.bump(number); err != nil && number == 2 {
			t.Fatal(err)
		}
	}
	_ = ch.Close()
	e.terminate(t)
	return harness.Read(t, e.log)
}

// says checks the statements about the second boot. After a change of the TPM, the third boot has the
// TPM of the second.
func (g *gapTPM) says(t *testing.T, want, log string) {
	t.Helper()
	list := strings.Split(mustRun(t, ours("swtpm"), "boots", "--tpmstate", "dir="+g.state), "\n")
	explained := mustRun(t, ours("swtpm"), "boots", "explain", "--tpmstate", "dir="+g.state)
	show := mustRun(t, ours("swtpm"), "boots", "show", "--tpmstate", "dir="+g.state, "2")
	diff := mustRun(t, ours("swtpm"), "boots", "diff", "--tpmstate", "dir="+g.state, "1", "2")
	for text, is := range map[string]map[string]bool{
		list[1]:   {unknownTPM: want == unknownTPM, anotherTPM: want == anotherTPM},
		show:      {unknownTPM: want == unknownTPM, anotherTPM: want == anotherTPM},
		explained: {unknownTPM: want == unknownTPM, harmfulSteps: want == anotherTPM},
		diff:      {unknownTPM: want == unknownTPM, "identity of the TPM": want != ""},
	} {
		for words, expected := range is {
			if strings.Contains(text, words) != expected {
				t.Errorf("%q: %t, want %t, in:\n%s", words, !expected, expected, text)
			}
		}
	}
	if len(list) > 3 && (strings.Contains(list[2], unknownTPM) || strings.Contains(list[2], anotherTPM)) {
		t.Errorf("the third boot: %s", list[2])
	}
	if len(list) == 3 && strings.Contains(log, loggedTPM) != (want == anotherTPM) {
		t.Errorf("%q logged: %t, want %t, in:\n%s", loggedTPM, want != anotherTPM, want == anotherTPM, log)
	}
}

func (g *gapTPM) archive() string { return filepath.Join(g.dir, "archive") }

func (g *gapTPM) export(t *testing.T) {
	t.Helper()
	stateVerb(t, "export", g.state, "--plain", g.archive())
}

func (g *gapTPM) restore(t *testing.T) {
	t.Helper()
	stateVerb(t, "import", g.state, "--replace", g.archive())
}

// rekey encrypts the state, and makes it plain again.
func (g *gapTPM) rekey(t *testing.T) {
	t.Helper()
	stateVerb(t, "rekey", g.state, newKeyArgs("aes-256")...)
	stateVerb(t, "rekey", g.state, append(keyArgs("aes-256"), newKeyArgs("plain")...)...)
}

func (g *gapTPM) setup(t *testing.T, state string, args ...string) {
	t.Helper()
	mustRun(t, ours("swtpm-setup"), append([]string{"--tpm2", "--tpm-state", state}, args...)...)
}

// permanent returns the path of the permanent state in a directory.
func (g *gapTPM) permanent(dir string) string {
	return filepath.Join(dir, g.v.prefix()+"."+tpm.Permanent.Name())
}

// replace puts a TPM that was made elsewhere in the place of the TPM.
func (g *gapTPM) replace(t *testing.T, args ...string) {
	t.Helper()
	other := filepath.Join(g.dir, "other")
	mkdir(t, other)
	g.setup(t, other, args...)
	write(t, g.permanent(g.state), []byte(harness.Read(t, g.permanent(other))))
}

// lose removes the state, but not the ledger.
func (g *gapTPM) lose(t *testing.T) {
	t.Helper()
	if err := os.Remove(g.permanent(g.state)); err != nil {
		t.Fatal(err)
	}
}

// TestLedgerMigratedBack checks that a TPM that went to swtpm and back through the control channel is not
// another TPM, and that it is the same after it went to another process of ours.
func TestLedgerMigratedBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		program string
		want    string
	}{"swtpm": {harness.Reference(t), unknownTPM}, "ours": {ours("swtpm"), ""}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGapTPM(t, v20)
			here := start(t, setup{tpm: v20, state: g.state})
			here.power(t, v20).define(t)
			away := start(t, setup{program: tt.program, tpm: v20})
			g.move(t, here, away)
			here.terminate(t)
			ch := away.open(t, v20)
			if err := ch.bump(2); err != nil {
				t.Fatal(err)
			}
			_ = ch.Close()
			back := start(t, setup{tpm: v20, state: g.state})
			g.move(t, away, back)
			ch = back.open(t, v20)
			if n := ch.number(t); n != 2 {
				t.Errorf("the number is %d, want 2", n)
			}
			_ = ch.Close()
			back.terminate(t)
			g.says(t, tt.want, harness.Read(t, back.log))
		})
	}
}

// move sends the state of a running TPM to another process, and powers that on.
func (g *gapTPM) move(t *testing.T, from, to *emulator) {
	t.Helper()
	for _, blob := range []string{"permanent", "volatile"} {
		file := filepath.Join(g.dir, blob)
		mustRun(t, ours("swtpm_ioctl"), "--unix", from.ctrl, "--save", blob, file)
		mustRun(t, ours("swtpm_ioctl"), "--unix", to.ctrl, "--load", blob, file)
	}
	mustRun(t, ours("swtpm_ioctl"), "--unix", to.ctrl, "-i")
}
