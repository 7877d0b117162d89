// Package emul is the TPM as its front ends see it: power, locality, the order
// of commands, and the traffic between libtpms and the state at rest. It knows
// neither sockets nor C: libtpms stands behind Engine, the state behind
// nv.Store.
package emul

import (
	"sync"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Engine is the library that plays the TPM. Its state is global to the process,
// so there is one Engine; its Locker is held while it works. Every method but
// Cancel, SetLocality, Established, Commands and Serve needs the lock.
//
// Errors wrap the tpm.Result that the library gave.
type Engine interface {
	sync.Locker
	// TryLock takes the lock if it is free.
	TryLock() bool

	// Choose picks the TPM version; it fails if the library lacks it.
	Choose(v tpm.Version) error
	// Register names the host of everything that follows.
	Register(h Host) error
	// SetProfile names the algorithm profile, JSON, of the TPM 2.0 that the
	// next Start makes; Terminate forgets it. Its error is
	// errors.ErrUnsupported if the library has no profiles.
	SetProfile(profile string) error
	// Manufactured reports whether the last Start made a new TPM, for a
	// library that has profiles.
	Manufactured() bool
	// Start powers the TPM on.
	Start() error
	// Terminate powers the TPM off; it writes nothing and may be repeated.
	Terminate()

	// Process runs one command at the current locality. The response belongs
	// to the caller. The engine notes the command's code.
	Process(cmd []byte) (rsp []byte, err error)
	// Commands is how many commands Process and Serve ran since the process
	// began. It needs no lock.
	Commands() uint64
	// LastCode is the code of the last command that Process or Serve ran.
	LastCode() tpm.Code
	// SetLastCode notes a code that never reached the library.
	SetLastCode(c tpm.Code)

	// SetLocality sets the locality of the next command.
	SetLocality(l tpm.Locality)

	// Volatile returns the serialised volatile state.
	Volatile() ([]byte, error)
	// SetState hands the library a blob for the next Start, nil to hide the
	// stored one. A rejected blob drops those handed over before.
	SetState(b tpm.Blob, payload []byte) error

	HashStart() error
	HashData(b []byte) error
	HashEnd() error

	// Established returns the tpmEstablished bit. While a command runs it is
	// the bit from before that command, so that the caller need not wait.
	Established() (bool, error)
	// ResetEstablished clears the bit, asked at locality l.
	ResetEstablished(l tpm.Locality) error

	// Cancel asks the running command to stop.
	Cancel() error

	// BufferSize sets the largest command and response in bytes, 0 asks only.
	BufferSize(want uint32) (size, low, high uint32)
	// Info describes the TPM as JSON; flags are TPMLIB_INFO_*.
	Info(flags uint64) (string, error)

	// Keep makes the engine store in the cells of k what changes without the
	// lock, starting with their present values, and hand the volatile state to the
	// host after each change.
	Keep(k Handover)
	// KeepBehind makes the engine itself write header and the volatile state after
	// each change, rather than hand the state to the host. It holds until the next
	// call or Terminate; an empty header ends it.
	KeepBehind(header []byte)
	// Snapshot hands the volatile state to the host now, also while the host
	// is called, if the TPM is on and Keep was called.
	Snapshot()

	// Admit sets whether Serve may run commands by itself.
	Admit(ok bool)
	// Serve waits until a descriptor of s needs the caller, or the time is up.
	// Meanwhile it answers whole, plain commands by itself. Only one goroutine
	// calls it.
	Serve(s *handover.Set) handover.Event

	// AnswerQueries sets whether ServeQueries may answer by itself.
	AnswerQueries(ok bool)
	// ServeQueries is Serve for the control channel: it answers the requests with a reply in
	// s.Fixed, GET_TPMESTABLISHED of a TPM that is on and SET_LOCALITY below 4.
	ServeQueries(s *handover.Set) handover.Event
}

// Host is what the library asks of its surroundings while it works. Names are
// those of tpm.Blob.Name.
type Host interface {
	// LoadState returns the payload of a stored blob; its error is
	// fs.ErrNotExist if there is none. The bytes are copied.
	LoadState(name string) ([]byte, error)
	// StoreState makes payload permanent before it returns.
	StoreState(name string, payload []byte) error
	// DeleteState removes a stored blob; its error is fs.ErrNotExist if there
	// is none.
	DeleteState(name string) error
	// Keep takes the volatile state, nil if there is none to be had; the bytes
	// are not kept.
	Keep(volatile []byte)
	// Recover is called after a command, or a request, for which a callback
	// has failed. It gets the volatile state from before and the code of the
	// command before, may restart the engine, and returns the response to use
	// instead of the engine's own one; nil leaves that. The bytes are not kept.
	Recover(before []byte, last tpm.Code) (rsp []byte)
	// Warn takes a line for the log.
	Warn(format string, args ...any)
}
