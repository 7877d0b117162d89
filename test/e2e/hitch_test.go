package e2e_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// hitch is a way in which a migration fails. do has the luggage and both hosts; dst has ended
// when it returns.
type hitch struct {
	name     string
	dstArgs  []string // keys; default: those of src
	badState bool     // the directory of dst is missing, so there are two
	old      bool     // with a TPM 1.2 too
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
	{name: "target killed after INIT", old: true, do: func(t *testing.T, _, dst *emulator, bags luggage) {
		arrives(t, dst, bags)
		dst.Kill(t)
	}},
	{name: "target ends after INIT", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		arrives(t, dst, bags) // its end sends the TPM2_Shutdown and stores that
		dst.terminate(t)
	}},
	{name: "INIT of the target fails", badState: true, old: true, do: func(t *testing.T, _, dst *emulator, bags luggage) {
		refuses(t, dst, bags, tpm.Fail)
		dst.terminate(t)
	}},
	{name: "damaged volatile blob", do: func(t *testing.T, _, dst *emulator, bags luggage) {
		bad := slices.Clone(bags[1].blob)
		bad[len(bad)/2] ^= 1
		refuses(t, dst, luggage{bags[0], {bags[1].kind, bags[1].flags, bad}}, tpm.DecryptError)
		dst.terminate(t)
	}},
	{name: "target slow to let go", old: true, do: func(t *testing.T, src, dst *emulator, bags luggage) {
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

// refuses checks that the target refuses the luggage with that result.
func refuses(t *testing.T, dst *emulator, bags luggage, want tpm.Result) {
	t.Helper()
	if err := dst.unpack(t, bags); tpm.ResultOf(err) != want {
		t.Errorf("the target takes the state: %v, want %v; log:\n%s", err, want, harness.Read(t, dst.log))
	}
}

// arrives checks that the target accepts the luggage.
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

// TestMigrationThatFails checks that a guest continues on its old host with its state after a
// failed migration, that it can still move, and that its later changes are stored.
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
				if !v.runs(h.old && (shared || h.badState && target.name == "another directory")) {
					continue
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

// TestMigrationSourceKilled checks that a source that is killed during a migration loses nothing:
// the guest's state is in the source's directory, and on the destination as far as it was sent.
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
