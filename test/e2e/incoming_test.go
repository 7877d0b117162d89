package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

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

// TestMigrationIncomingWaits checks that the destination of a shared directory does not lock or
// write the state while the source has it, although QEMU asks for the version and resets the
// machine. Requests that need the state fail, and a command or a blob ends the process.
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

// listing returns the content of a directory except the lock file.
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

// TestMigrationLostForGood checks that a source whose state another process has acquired ends when
// a client wants to use it again: no response, exit code 0, one log line.
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
			if log := harness.Read(t, src.log); !strings.Contains(log, "ending: this process does not hold the lock of its state: ") {
				t.Errorf("the log does not say why: %q", log)
			}
			g.goesOn(t, dst, v)
		})
	}
}

// TestMigrationOvertaken checks that requests to a host whose guest is elsewhere do not replace
// the state that the guest has stored there, also if the other host has ended and no process holds
// the lock. RESET_TPMESTABLISHED and HASH_START store the whole state of a TPM 1.2.
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
