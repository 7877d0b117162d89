package libtpms_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

var (
	// An NV index with the password "secret", whose failures are counted, and a command
	// that fails only after its authorization, because nothing was written.
	defineSecret   = harness.Unhex("8002 00000033 0000012a 40000001 00000009 40000009 0000 00 0000 0006 736563726574 000e 01800003 000b 00060006 0000 0008")
	lockoutCounter = harness.Unhex("8001 00000016 0000017a 00000006 0000020e 00000001")
	readOwner      = harness.Unhex("8002 00000023 0000014e 40000001 01800003 00000009 40000009 0000 00 0000 0008 0000")
)

const (
	authFail      = tpm.Result(0x98e)
	uninitialized = tpm.Result(0x14a)
)

// readSecret reads the index with a password.
func readSecret(password string) []byte {
	return harness.Unhex(fmt.Sprintf("8002 %08x 0000014e 01800003 01800003 %08x 40000009 0000 00 %04x %x 0008 0000",
		35+len(password), 9+len(password), len(password), password))
}

// failures returns the counter of failed authorizations.
func failures(t *testing.T, c func([]byte) []byte) byte {
	t.Helper()
	rsp := c(lockoutCounter)
	return rsp[len(rsp)-1]
}

// TestGuesses checks that a full disk does not let a guest guess passwords: a right one
// and a wrong one get the same answer, and what needs no counter works.
func TestGuesses(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			d := newDisk()
			x := started(t, d, tpm.V20)
			ask := func(cmd []byte) []byte { return mustRun(t, x, cmd) }
			for _, c := range [][]byte{defineSecret, defineCounter, incrementCounter} {
				mustRun(t, x, c)
			}
			_ = run(t, x, readSecret("secret")) // the first use is stored, and to be tried again
			if got := code(run(t, x, readSecret("secret"))); got != uninitialized {
				t.Fatalf("right password: %v, want %v", got, uninitialized)
			}
			if got := code(run(t, x, readSecret("wrong"))); got != authFail || failures(t, ask) != 1 {
				t.Fatalf("wrong password: %v, %d failures, want %v and 1", got, failures(t, ask), authFail)
			}

			d.fault(errno)
			for i, password := range []string{"guess", "secret"} {
				if got := code(run(t, x, readSecret(password))); got != tpm.RCNVUnavailable {
					t.Errorf("password %d on a failing disk: %v, want %v", i+1, got, tpm.RCNVUnavailable)
				}
			}
			for _, c := range [][]byte{readCounter, extend20, random20} {
				mustRun(t, x, c)
			}
			if got := code(run(t, x, readOwner)); got != uninitialized {
				t.Errorf("authorization by the owner: %v, want %v", got, uninitialized)
			}

			d.fault(nil)
			if got := code(run(t, x, readSecret("wrong"))); got != authFail || failures(t, ask) != 2 {
				t.Errorf("wrong password afterwards: %v, %d failures, want %v and 2", got, failures(t, ask), authFail)
			}
			if got := code(run(t, x, readSecret("secret"))); got != uninitialized {
				t.Errorf("right password afterwards: %v, want %v", got, uninitialized)
			}
		})
	}
}

// TestGuessesSlip checks that few guesses remain to a guest that fills the disk between
// the store that tests it and the one of the counter.
func TestGuessesSlip(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V20)
	mustRun(t, x, defineSecret)
	mustRun(t, x, readPCR20)
	_ = run(t, x, readSecret("secret")) // the first use is stored, and to be tried again
	d.fault(syscall.ENOSPC)
	_ = run(t, x, readSecret("wrong"))
	for range 8 {
		d.mu.Lock()
		d.room = 1
		d.mu.Unlock()
		if got := code(run(t, x, readSecret("wrong"))); got != tpm.RCNVUnavailable {
			t.Errorf("wrong password: %v, want %v", got, tpm.RCNVUnavailable)
		}
	}
	for range 2 {
		d.mu.Lock()
		d.room = 1
		d.mu.Unlock()
		if got := code(run(t, x, readSecret("secret"))); got != tpm.RCNVUnavailable {
			t.Errorf("right password after too many: %v, want %v", got, tpm.RCNVUnavailable)
		}
	}
	d.fault(nil)
	if got := code(run(t, x, readSecret("secret"))); got != tpm.RCNVUnavailable {
		t.Errorf("right password with space again: %v, want %v for a while", got, tpm.RCNVUnavailable)
	}
}
