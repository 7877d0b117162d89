package e2e_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// luggage is the state blobs of a guest that migrates, as QEMU transfers them.
type luggage []parcel

type parcel struct {
	kind  tpm.Blob
	flags ctrl.StateFlags
	blob  []byte
}

// pack fetches the blobs as QEMU does: permanent, volatile, savestate. plain takes
// the file key's encryption off, which QEMU always wants.
func (e *emulator) pack(t testing.TB, plain bool) luggage {
	t.Helper()
	c := e.control(t)
	defer func() { _ = c.Close() }()
	var l luggage
	for _, kind := range tpm.Blobs {
		blob, flags, err := c.State(kind, plain)
		if r, ok := errors.AsType[tpm.Result](err); ok && r&tpm.Retry != 0 {
			continue
		}
		if err != nil {
			t.Fatalf("%v; log:\n%s", err, harness.Read(t, e.log))
		}
		if len(blob) > 0 {
			l = append(l, parcel{kind, flags, blob})
		}
	}
	if len(l) < 2 {
		t.Fatalf("%d blobs, want the permanent and the volatile one", len(l))
	}
	return l
}

// unpack hands the blobs over and powers the TPM on, as QEMU does.
func (e *emulator) unpack(t testing.TB, l luggage) error {
	t.Helper()
	c := e.control(t)
	defer func() { _ = c.Close() }()
	if err := c.Stop(); err != nil {
		return err
	}
	for _, p := range l {
		if err := c.SetState(p.kind, p.flags, p.blob); err != nil {
			return fmt.Errorf("blob %s: %w", p.kind, err)
		}
	}
	return c.Init(ctrl.InitDeleteVolatile)
}

// guest is the content of a TPM: a number in its NV index, and PCR 10.
type guest struct {
	number uint64
	pcr    string
}

// moveIn powers the TPM of e on and gives it a guest's contents.
func moveIn(t testing.TB, e *emulator, v version) guest {
	t.Helper()
	ch := e.power(t, v)
	defer func() { _ = ch.Close() }()
	ch.define(t)
	ch.ok(t, extend[v])
	return guest{1, pcrValue(ch.ok(t, readPCR[v]))}
}

// goesOn checks that the guest continues with its content, and changes its permanent state. The
// TPM had no TPM_Startup since.
func (g *guest) goesOn(t testing.TB, e *emulator, v version) {
	t.Helper()
	ch := e.open(t, v)
	defer func() { _ = ch.Close() }()
	if n := ch.number(t); n != g.number {
		t.Errorf("the number is %d, want %d", n, g.number)
	}
	if pcr := pcrValue(ch.ok(t, readPCR[v])); pcr != g.pcr {
		t.Errorf("PCR 10 is %s, want %s", pcr, g.pcr)
	}
	if err := ch.bump(g.number + 1); err != nil {
		t.Fatal(err)
	}
	g.number++
}

// isAt checks that the guest's permanent state is in a state directory that no process uses.
func (g *guest) isAt(t testing.TB, state string, v version, args ...string) {
	t.Helper()
	e := start(t, setup{tpm: v, state: state, args: args})
	ch := e.power(t, v)
	if n := ch.number(t); n != g.number {
		t.Errorf("the number in %s is %d, want %d", state, n, g.number)
	}
	_ = ch.Close()
	e.terminate(t)
}

// shared are the options of libvirt and Incus for a directory that both hosts
// see: of the host that the guest leaves, and of the one it comes to.
var (
	leaving  = []string{"--migration", "release-lock-outgoing"}
	arriving = []string{"--migration", "release-lock-outgoing,incoming"}
)

// secrets are the keys on the way. The hosts have each a file key of its own
// unless they share the directory, or the blobs keep its encryption.
var secrets = []struct {
	name     string
	args     []string // both hosts
	src, dst []string // each its own; not with a shared directory
	plain    bool
}{
	{name: "plain", plain: true},
	{name: "file keys", src: encryptions["aes-128"], dst: encryptions["aes-256"], plain: true},
	{name: "file key in the blobs", args: encryptions["aes-256"]},
	{name: "migration key", args: []string{"--migration-key", "file=testdata/migration.hex"}, plain: true},
	{name: "both keys", args: []string{"--migration-key", "pwdfile=testdata/passphrase,mode=aes-256-cbc"},
		src: encryptions["aes-256"], dst: encryptions["sha512"], plain: true},
}

// TestMigration checks that a guest moves between ours and the reference in both directions, to
// another directory and in a shared one, and moves back.
func TestMigration(t *testing.T) {
	t.Parallel()
	routes := []struct {
		name     string
		from, to func(t testing.TB) string
		shared   bool
	}{
		{"ours to ours", mine, mine, false},
		{"ours to ours, shared", mine, mine, true},
		{"ours to the reference", mine, harness.Reference, false},
		{"ours to the reference, shared", mine, harness.Reference, true},
		{"the reference to ours", harness.Reference, mine, false},
		{"the reference to ours, shared", harness.Reference, mine, true},
	}
	for _, r := range routes {
		for _, k := range secrets {
			for _, v := range both {
				if !v.runs(k.name == "both keys" && !r.shared) {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s, %s", r.name, k.name, v), func(t *testing.T) {
					t.Parallel()
					a := setup{program: r.from(t), tpm: v, args: slices.Concat(k.args, k.src), state: harness.TempDir(t)}
					b := setup{program: r.to(t), tpm: v, args: slices.Concat(k.args, k.dst), state: harness.TempDir(t)}
					if r.shared {
						a.args = slices.Concat(k.args, k.src)
						b.args, b.state = a.args, a.state
					}
					src := start(t, withMigration(a, r.shared, leaving))
					g := moveIn(t, src, v)
					bags := src.pack(t, k.plain)
					if r.shared && a.program != ours("swtpm") { // it does not give the lock away
						src.Kill(t)
					}
					dst := start(t, withMigration(b, r.shared, arriving))
					if err := dst.unpack(t, bags); err != nil {
						t.Fatalf("%v; log:\n%s", err, harness.Read(t, dst.log))
					}
					g.goesOn(t, dst, v)
					bags = dst.pack(t, k.plain)
					if r.shared {
						src.Kill(t) // it has lost
						if b.program != ours("swtpm") {
							dst.Kill(t)
						}
					}
					back := start(t, withMigration(a, r.shared, arriving))
					if !r.shared {
						src.terminate(t)
						back = start(t, setup{program: a.program, tpm: v, args: a.args})
					}
					if err := back.unpack(t, bags); err != nil {
						t.Fatalf("back: %v; log:\n%s", err, harness.Read(t, back.log))
					}
					g.goesOn(t, back, v)
				})
			}
		}
	}
}

// withMigration returns s with the options of a shared directory, which the
// reference's 0.7 does not know.
func withMigration(s setup, shared bool, options []string) setup {
	if shared && s.program == ours("swtpm") {
		s.args = slices.Concat(s.args, options)
	}
	return s
}

// TestMigrationOfSavestate checks that the savestate of a suspended guest with a TPM 1.2 is
// migrated, too.
func TestMigrationOfSavestate(t *testing.T) {
	t.Parallel()
	src := start(t, setup{args: leaving})
	g := moveIn(t, src, v12)
	ch := src.open(t, v12)
	ch.ok(t, "00c1 0000000a 00000098") // TPM_SaveState
	_ = ch.Close()
	bags := src.pack(t, true)
	if len(bags) != 3 {
		t.Fatalf("%d blobs, want 3", len(bags))
	}
	dst := start(t, setup{args: arriving})
	arrives(t, dst, luggage{bags[0], bags[2]})
	ch = dst.open(t, v12)
	ch.ok(t, "00c1 0000000c 00000099 0002") // TPM_Startup(ST_STATE)
	_ = ch.Close()
	g.goesOn(t, dst, v12)
}

// TestMigrationSharedWithOtherKey checks that INIT fails at a destination with another key of a
// shared directory, because the source could no longer read its state, and that the source
// continues.
func TestMigrationSharedWithOtherKey(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			state := harness.TempDir(t)
			src := start(t, setup{tpm: v, state: state, args: slices.Concat(encryptions["aes-128"], leaving)})
			g := moveIn(t, src, v)
			bags := src.pack(t, true)
			before := harness.Read(t, filepath.Join(state, v.file()))
			dst := start(t, setup{tpm: v, state: state, args: slices.Concat(encryptions["pbkdf2"], arriving)})
			if err := dst.unpack(t, bags); err == nil {
				t.Error("the target has taken the state")
			}
			dst.terminate(t)
			if harness.Read(t, filepath.Join(state, v.file())) != before {
				t.Error("the target has written")
			}
			g.goesOn(t, src, v)
			src.terminate(t)
			g.isAt(t, state, v, encryptions["aes-128"]...)
		})
	}
}

// TestSnapshot checks that a guest continues after its blobs were fetched, with QEMU's
// LOCK_STORAGE or, before QEMU 8, without it. Meanwhile another process can lock the state, unless
// release-lock-outgoing=false.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		for _, v := range both {
			t.Run(fmt.Sprintf("keep %t, %s", keep, v), func(t *testing.T) {
				t.Parallel()
				state := harness.TempDir(t)
				var args []string // by default the lock is given away
				if keep {
					args = []string{"--migration", "release-lock-outgoing=false"}
				}
				src := start(t, setup{tpm: v, state: state, args: args})
				g := moveIn(t, src, v)
				for range 2 {
					bags := src.pack(t, true)
					if free := lockIsFree(t, state); free == keep {
						t.Errorf("the lock is free: %t, want %t", free, !keep)
					}
					g.goesOn(t, src, v)
					if lockIsFree(t, state) {
						t.Error("the guest goes on, but its state is not locked")
					}
					// Back to the snapshot, in the same process.
					ch := src.open(t, v)
					ch.ok(t, extend[v])
					_ = ch.Close()
					arrives(t, src, bags)
					g.number--
					g.goesOn(t, src, v)
				}
				src.terminate(t)
				g.isAt(t, state, v)
			})
		}
	}
}
