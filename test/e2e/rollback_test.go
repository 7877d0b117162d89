package e2e_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/test/harness"
)

// onHost returns the arguments that start a program on a host with these settings.
func onHost(t *testing.T, settings string) []string {
	t.Helper()
	needRoot(t, "a namespace with its own "+config.HostFile)
	harness.Need(t, "unshare", "util-linux")
	dir := harness.TempDir(t)
	write(t, filepath.Join(dir, "host.toml"), []byte(settings))
	place := filepath.Dir(config.HostFile)
	if err := os.MkdirAll(place, 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" ` + place + ` && exec "$@"`, dir}
}

// host returns the settings of a host with its own directory of marks.
func host(t *testing.T, policy string) (settings, marks string) {
	t.Helper()
	marks = filepath.Join(harness.TempDir(t), "marks")
	mkdir(t, marks)
	return "[rollback]\npolicy = \"" + policy + "\"\nmarks = \"" + marks + "\"\n", marks
}

// TestRollback checks the reports about an old copy of a state that is restored without a
// declaration.
func TestRollback(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) { rollBack(t, inDir, v) })
	}
	k := newClusterHost(t).keeping()
	t.Run("store", func(t *testing.T) { rollBack(t, k, v20) })
}

// rollBack gives a TPM of version v old states.
func rollBack(t *testing.T, k keeping, v version) {
	t.Parallel()
	settings, marks := host(t, "warn")
	wrap := onHost(t, settings)
	state := k.place(t)
	at := func(wrap []string) setup {
		s := k.at(v, state)
		s.wrap = wrap
		return s
	}
	begin := func(wrap []string) (*emulator, error) {
		e := start(t, at(wrap))
		c := e.control(t)
		defer c.Close()
		return e, c.Init(0)
	}
	advance := func(from uint64, bumps int) { t.Helper(); bumpOnHost(t, at(wrap), from, bumps) }
	advance(0, 1)
	old := k.read(t, v, state)
	advance(1, 2)
	if entries, err := os.ReadDir(marks); err != nil || len(entries) != 2 {
		t.Fatalf("%d files, %v; want a mark and a place", len(entries), err)
	}

	k.write(t, v, state, old)
	checkOldState(t, k, v, state, wrap)
	e, err := begin(wrap)
	if log := harness.Read(t, e.log); err != nil || strings.Count(log, "old state: permall has generation ") != 1 || !strings.Contains(log, "swtpm state accept --tpmstate backend-uri="+k.uri(v, state)) {
		t.Errorf("old state: %v, %s", err, log)
	}
	e.Kill(t)

	k.write(t, v, state, old)
	refuse := onHost(t, strings.Replace(settings, "warn", "refuse", 1))
	e, err = begin(refuse)
	if log := harness.Read(t, e.log); err == nil || !strings.Contains(log, "old state: permall has generation ") {
		t.Errorf("old state, to be refused: %v, %s", err, log)
	}
	e.Kill(t)
	if !bytes.Equal(k.read(t, v, state), old) {
		t.Error("a refused state was changed")
	}

	accept := append(refuse[:len(refuse):len(refuse)], ours("swtpm"), "state", "accept", "--tpmstate", "backend-uri="+at(nil).where())
	if out := k.mustRun(t, accept...); !strings.Contains(out, "accepted as generation ") {
		t.Errorf("accept: %s", out)
	}
	e, err = begin(refuse)
	if log := harness.Read(t, e.log); err != nil || strings.Contains(log, "old state") {
		t.Errorf("accepted state: %v, %s", err, log)
	}
	e.terminate(t)

	acceptSnapshot(t, v, at(refuse), advance, begin)
}

// checkOldState checks that the doctor warns of an old state that would start.
func checkOldState(t *testing.T, k keeping, v version, state string, wrap []string) {
	t.Helper()
	args := append(wrap[:len(wrap):len(wrap)], ours("swtpm"), "doctor", "--", "socket", "--tpmstate", "backend-uri="+k.at(v, state).where(), "--ctrl", "type=unixio,path="+filepath.Join(harness.TempDir(t), "doctor.sock"))
	if v == v20 {
		args = append(args, "--tpm2")
	}
	out := k.mustRun(t, args...)
	if strings.Count(out, "warning: start: "+k.uri(v, state)+": old state: permall has generation ") != 1 || !strings.Contains(out, ": would start\n") {
		t.Errorf("the doctor says of an old state:\n%s", out)
	}
}

// bumpOnHost starts a TPM whose number is from, 0 if it has none, and increments the number. No
// alarm is expected.
func bumpOnHost(t *testing.T, s setup, from uint64, bumps int) {
	t.Helper()
	e := start(t, s)
	ch := e.power(t, s.tpm)
	if from == 0 {
		ch.define(t)
	}
	for range bumps {
		if err := ch.bump(ch.number(t) + 1); err != nil {
			t.Fatal(err)
		}
	}
	e.terminate(t)
	if log := harness.Read(t, e.log); strings.Contains(log, "old state") || strings.Contains(log, "mixed state") {
		t.Fatalf("false alarm: %s", log)
	}
}

// acceptSnapshot checks that a state that a client sends through the control channel is accepted,
// however old it is.
func acceptSnapshot(t *testing.T, v version, s setup, advance func(from uint64, bumps int), begin func(wrap []string) (*emulator, error)) {
	t.Helper()
	e := start(t, s)
	e.power(t, v)
	l := e.pack(t, false)
	e.terminate(t)
	advance(1, 3)
	e = start(t, s)
	if err := e.unpack(t, l); err != nil {
		t.Errorf("snapshot: %v, %s", err, harness.Read(t, e.log))
	}
	e.terminate(t)
	e, err := begin(s.wrap)
	if log := harness.Read(t, e.log); err != nil || strings.Contains(log, "old state") {
		t.Errorf("after the snapshot: %v, %s", err, log)
	}
	e.Kill(t)
}

// TestHostPolicy checks that TPMs start although the settings of the host have an error.
func TestHostPolicy(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tpm: v20, wrap: onHost(t, "[rolback]\n")})
	e.power(t, v20)
	if log := harness.Read(t, e.log); strings.Count(log, "host policy ignored, defaults used: "+config.HostFile+":1:2: [rolback]: unknown table") != 1 {
		t.Errorf("log: %s", log)
	}
	e.terminate(t)
	e = start(t, setup{tpm: v20, wrap: onHost(t, "[minimum]\ndurability = \"full\"\n"), args: []string{"--log", "level=5"}})
	e.power(t, v20)
	e.terminate(t)
}
