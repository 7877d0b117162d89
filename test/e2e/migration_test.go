package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// luggage is the state of a guest that moves, as QEMU takes it along.
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

// guest is a TPM with something in it: a number in its NV index and PCR 10.
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

// goesOn wants the guest as it was, running, and has it change something that
// lasts. The TPM had no TPM_Startup since.
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

// A guest moves: ours and the reference's, in both directions, to a directory of
// its own and in one that both hosts share; and moves back.
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
				if v == v12 && k.name != "plain" && k.name != "both keys" {
					continue // the keys do not look into what they hide, and a TPM 1.2 takes its time
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

// hitch is a way for a migration to go wrong. do has the luggage and both hosts;
// dst has ended when it returns.
type hitch struct {
	name     string
	dstArgs  []string // keys; default: those of src
	badState bool     // the directory of dst is missing, so there are two
	do       func(t *testing.T, src, dst *emulator, bags luggage)
}

var hitches = []hitch{
	{name: "the target does not answer", do: func(t *testing.T, _, dst *emulator, _ luggage) {
		dst.Kill(t)
	}},
	{name: "wrong migration key", dstArgs: []string{"--migration-key", "file=testdata/key128.hex"},
		do: func(t *testing.T, _, dst *emulator, bags luggage) {
			refuses(t, dst, bags, tpm.DecryptError)
			dst.terminate(t)
		}},
	{name: "no migration key", dstArgs: []string{}, do: func(t *testing.T, _, dst *emulator, bags luggage) {
		refuses(t, dst, bags, tpm.KeyNotFound)
		dst.terminate(t)
	}},
	{name: "migration key of another size", dstArgs: []string{"--migration-key", "file=testdata/key256.hex,mode=aes-256-cbc"},
		do: func(t *testing.T, _, dst *emulator, bags luggage) {
			refuses(t, dst, bags, tpm.BadKeyProperty)
			dst.terminate(t)
		}},
	{name: "connection lost in the volatile blob", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		c := dst.control(t)
		if err := c.SetState(bags[0].kind, bags[0].flags, bags[0].blob); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		sendHalf(t, dst, bags[1])
		dst.terminate(t)
	}},
	{name: "target killed before INIT", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		c := dst.control(t)
		for _, p := range bags {
			if err := c.SetState(p.kind, p.flags, p.blob); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.Close()
		dst.Kill(t)
	}},
	{name: "target killed after INIT", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		arrives(t, dst, bags)
		dst.Kill(t)
	}},
	{name: "target ends after INIT", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		arrives(t, dst, bags) // its end sends the TPM2_Shutdown and stores that
		dst.terminate(t)
	}},
	{name: "INIT of the target fails", badState: true, do: func(t *testing.T, _, dst *emulator, bags luggage) {
		refuses(t, dst, bags, tpm.Fail)
		dst.terminate(t)
	}},
	{name: "damaged volatile blob", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		bad := slices.Clone(bags[1].blob)
		bad[len(bad)/2] ^= 1
		refuses(t, dst, luggage{bags[0], {bags[1].kind, bags[1].flags, bad}}, tpm.DecryptError)
		dst.terminate(t)
	}},
	{name: "target slow to let go", do: func(t *testing.T, src, dst *emulator, bags luggage) {
		c := dst.control(t)
		if err := c.SetState(bags[0].kind, bags[0].flags, bags[0].blob); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		asked := make(chan error, 1)
		c = src.control(t)
		go func() { asked <- c.LockStorage(3000) }() // as QEMU does, with more patience
		dst.terminate(t)
		if err := <-asked; err != nil {
			t.Errorf("LOCK_STORAGE: %v", err)
		}
		_ = c.Close()
	}},
}

// refuses wants the target to refuse the luggage with that result.
func refuses(t *testing.T, dst *emulator, bags luggage, want tpm.Result) {
	t.Helper()
	if err := dst.unpack(t, bags); tpm.ResultOf(err) != want {
		t.Errorf("the target takes the state: %v, want %v; log:\n%s", err, want, harness.Read(t, dst.log))
	}
}

// arrives wants the target to take the luggage.
func arrives(t *testing.T, dst *emulator, bags luggage) {
	t.Helper()
	if err := dst.unpack(t, bags); err != nil {
		t.Fatalf("%v; log:\n%s", err, harness.Read(t, dst.log))
	}
}

// sendHalf sends the first half of a SET_STATEBLOB and hangs up.
func sendHalf(t *testing.T, e *emulator, p parcel) {
	t.Helper()
	conn := connect(t, e.ctrl)
	defer func() { _ = conn.Close() }()
	head, err := fromHex(fmt.Sprintf("0000000d %08x %08x %08x", uint32(p.flags), uint32(p.kind), len(p.blob)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(head, p.blob[:len(p.blob)/2]...)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// TPM_BAD_PARAMETER, or nothing at all: either way it has seen the end.
	_, _ = conn.Read(make([]byte, 4))
}

// After a migration that went wrong the guest goes on where it was, with what it
// had; it can still move, and what it changes since is kept.
func TestMigrationThatFails(t *testing.T) {
	t.Parallel()
	key := []string{"--migration-key", "file=testdata/migration.hex"}
	targets := []struct {
		name    string
		program func(t testing.TB) string
		shared  bool
	}{
		{"another directory", mine, false},
		{"another directory, the reference", harness.Reference, false},
		{"the same directory", mine, true},
	}
	for _, h := range hitches {
		for _, target := range targets {
			shared := target.shared
			if h.badState && shared {
				continue
			}
			for _, v := range both {
				if v == v12 && !shared && !h.badState {
					continue // a TPM 1.2 takes its time
				}
				t.Run(fmt.Sprintf("%s, %s, %s", h.name, target.name, v), func(t *testing.T) {
					t.Parallel()
					state := harness.TempDir(t)
					src := start(t, setup{tpm: v, state: state, args: slices.Concat(key, leaving)})
					g := moveIn(t, src, v)
					bags := src.pack(t, true)

					to := setup{program: target.program(t), tpm: v, state: harness.TempDir(t), args: key}
					if h.dstArgs != nil {
						to.args = h.dstArgs
					}
					if h.badState {
						to.state = filepath.Join(to.state, "missing")
					}
					if shared {
						to.state, to.args = state, slices.Concat(to.args, arriving)
					}
					h.do(t, src, start(t, to), bags)

					c := src.control(t)
					if err := c.LockStorage(300); err != nil {
						t.Fatalf("LOCK_STORAGE: %v; log:\n%s", err, harness.Read(t, src.log))
					}
					_ = c.Close()
					g.goesOn(t, src, v)
					dst := start(t, setup{tpm: v, state: state, args: slices.Concat(key, arriving)})
					arrives(t, dst, src.pack(t, true))
					g.goesOn(t, dst, v)
					src.Kill(t)
					dst.terminate(t)
					g.isAt(t, state, v)
				})
			}
		}
	}
}

// A host that dies while its guest is on the way out has lost nothing: it is in
// its directory, and where the luggage has come to.
func TestMigrationSourceKilled(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		for _, v := range both {
			t.Run(fmt.Sprintf("shared %t, %s", shared, v), func(t *testing.T) {
				t.Parallel()
				state := harness.TempDir(t)
				src := start(t, setup{tpm: v, state: state, args: leaving})
				g := moveIn(t, src, v)
				c := src.control(t)
				if _, _, err := c.State(tpm.Permanent, true); err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
				src.Kill(t) // with one blob on the way
				g.isAt(t, state, v)

				src = start(t, setup{tpm: v, state: state, args: leaving})
				ch := src.power(t, v)
				ch.ok(t, extend[v])
				g.pcr = pcrValue(ch.ok(t, readPCR[v]))
				_ = ch.Close()
				bags := src.pack(t, true)
				src.Kill(t) // with all of them
				to := setup{tpm: v, args: arriving}
				if shared {
					to.state = state
				}
				dst := start(t, to)
				arrives(t, dst, bags)
				if !shared {
					g.isAt(t, state, v)
				}
				g.goesOn(t, dst, v)
			})
		}
	}
}

// The savestate of a TPM 1.2 travels too: the guest had suspended it.
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

// With a key of its own the target of a shared directory would write what the
// source cannot read any more: INIT fails, and the source goes on.
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

var migrationIncomingWaitsAsk = map[version]string{v12: "00c1 0000000a 000000f1", v20: "8001 0000000a 00000181"}

// migrationIncomingWaitsCases are the cases of TestMigrationIncomingWaits.
var migrationIncomingWaitsCases = map[string]func(t *testing.T, dst *emulator, bags luggage){
	"a command": func(t *testing.T, dst *emulator, _ luggage) {
		c := dst.control(t)
		if err := c.Init(0); err != nil { // it reads, and writes nothing
			t.Fatalf("INIT: %v; log:\n%s", err, harness.Read(t, dst.log))
		}
		_ = c.Close()
		conn := connect(t, dst.data)
		defer func() { _ = conn.Close() }()
		if rsp, err := (&channel{Conn: conn}).transmit(migrationIncomingWaitsAsk[v20]); err == nil {
			t.Errorf("a command is answered: %x", rsp)
		}
	},
	"a blob": func(t *testing.T, dst *emulator, bags luggage) {
		refuses(t, dst, bags, tpm.IOError)
	},
	"LOCK_STORAGE": func(t *testing.T, dst *emulator, _ luggage) {
		c := dst.control(t)
		if err := c.LockStorage(2); tpm.ResultOf(err) != tpm.Fail {
			t.Errorf("LOCK_STORAGE: %v, want %v", err, tpm.Fail)
		}
		if err := c.Stop(); err != nil { // it goes on
			t.Error(err)
		}
		if err := c.Shutdown(); err != nil {
			t.Error(err)
		}
	},
}

// The target of a shared directory leaves the state alone while the source has
// it: QEMU asks for the version, resets the machine, and nothing is locked or
// made. Requests that need the state then fail, and a command or a blob ends it.
func TestMigrationIncomingWaits(t *testing.T) {
	t.Parallel()

	ends := migrationIncomingWaitsCases
	for name, end := range ends {
		for _, v := range both {
			t.Run(name+", "+string(v), func(t *testing.T) {
				t.Parallel()
				state := harness.TempDir(t)
				src := start(t, setup{tpm: v, state: state, args: leaving})
				g := moveIn(t, src, v)
				c := src.control(t)
				var bags luggage
				for _, kind := range tpm.Blobs[:2] { // not the last: the lock stays
					blob, flags, err := c.State(kind, true)
					if err != nil {
						t.Fatal(err)
					}
					bags = append(bags, parcel{kind, flags, blob})
				}
				_ = c.Close()
				before := listing(t, state)

				dst := start(t, setup{tpm: v, state: state, args: arriving})
				ch := dst.open(t, v)
				if rsp, err := ch.transmit(migrationIncomingWaitsAsk[v]); err != nil || result(rsp) == 0 {
					t.Errorf("before INIT: %x, %v; want an error response", rsp, err)
				}
				_ = ch.Close()
				c = dst.control(t)
				if err := c.Stop(); err != nil {
					t.Error(err)
				}
				if _, err := c.BufferSize(0); err != nil {
					t.Error(err)
				}
				_ = c.Close()
				end(t, dst, bags)
				if code := dst.Wait(t); code != 0 {
					t.Errorf("exit code %d, want 0", code)
				}
				if after := listing(t, state); after != before {
					t.Errorf("the state was %s\nand is %s", before, after)
				}
				g.goesOn(t, src, v)
			})
		}
	}
}

// listing is what is in a directory, but for the lock file.
func listing(t testing.TB, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		if f.Name() != ".lock" && !strings.Contains(f.Name(), ".boot-") { // the boot ledger is written a moment later
			fmt.Fprintf(&b, "%s %x\n", f.Name(), harness.Read(t, filepath.Join(dir, f.Name())))
		}
	}
	return b.String()
}

// A source that has lost its state to another process ends when it is asked to go
// on: no answer, exit code 0, a line in the log.
func TestMigrationLostForGood(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			state := harness.TempDir(t)
			src := start(t, setup{tpm: v, state: state, args: leaving})
			g := moveIn(t, src, v)
			dst := start(t, setup{tpm: v, state: state, args: arriving})
			arrives(t, dst, src.pack(t, true))
			c := src.control(t)
			if err := c.LockStorage(1); tpm.ResultOf(err) != tpm.Fail {
				t.Errorf("LOCK_STORAGE: %v, want %v", err, tpm.Fail)
			}
			_ = c.Close()
			g.goesOn(t, dst, v)
			ch := src.open(t, v)
			if rsp, err := ch.transmit(readPCR[v]); err == nil {
				t.Errorf("the source answers %x", rsp)
			}
			if code := src.Wait(t); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			if log := harness.Read(t, src.log); !strings.Contains(log, "the storage lock is held by another process") {
				t.Errorf("the log does not say why: %q", log)
			}
			g.goesOn(t, dst, v)
		})
	}
}

// Requests of a host to the TPM while its guest is elsewhere, and when the other
// host has ended and no process holds the lock, do not replace what the guest has stored
// there: RESET_TPMESTABLISHED and HASH_START store the state of a TPM 1.2, all of it.
func TestMigrationOvertaken(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for _, arrived := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, the guest has moved: %t", v, arrived), func(t *testing.T) {
				t.Parallel()
				state := harness.TempDir(t)
				src := start(t, setup{tpm: v, state: state, args: leaving})
				g := moveIn(t, src, v)
				dst := start(t, setup{tpm: v, state: state, args: arriving})
				old, here := dst, src
				if arrived {
					old, here = src, dst
					arrives(t, dst, src.pack(t, true))
				} else { // it reads the state, with nothing to go with it
					c := dst.control(t)
					if err := c.Init(0); err != nil {
						t.Fatal(err)
					}
					_ = c.Close()
				}
				g.goesOn(t, here, v)
				for _, ended := range []bool{false, true} {
					if ended {
						here.terminate(t)
					}
					before := listing(t, state)
					c := old.control(t)
					for name, do := range map[string]func() error{
						"RESET_TPMESTABLISHED": func() error { return c.ResetEstablished(3) },
						"HASH_START":           c.HashStart,
						"STORE_VOLATILE":       c.StoreVolatile,
					} {
						if err := do(); tpm.ResultOf(err) != tpm.Fail {
							t.Errorf("%s: %v, want %v; ended: %t", name, err, tpm.Fail, ended)
						}
					}
					_ = c.Close()
					if listing(t, state) != before {
						t.Errorf("the state has changed; ended: %t", ended)
					}
				}
				old.terminate(t)
				g.isAt(t, state, v)
			})
		}
	}
}

// A snapshot: the blobs are fetched and the guest goes on, with QEMU's
// LOCK_STORAGE or, before QEMU 8, without. Meanwhile another process may have the
// state, unless release-lock-outgoing=false.
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

// lockIsFree reports whether a process could lock the state.
func lockIsFree(t testing.TB, state string) bool {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(state, ".lock"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole) == nil
}
