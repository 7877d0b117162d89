// Package emul implements the TPM as its front ends use it: power, locality, the order of
// commands, and the traffic between libtpms and the stored state. It uses neither sockets
// nor C: libtpms implements Engine, package nv stores the state.
package emul

import (
	"sync"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Library is a library that emulates a TPM, as far as a stored state is checked with it. Its
// state is global to the process, so a process has one Library. Its lock is held while it works.
// Every method needs the lock, also the methods of the interfaces below, unless its comment says
// that it does not.
//
// Errors wrap the tpm.Result that the library returned.
type Library interface {
	sync.Locker
	// TryLock acquires the lock if it is free.
	TryLock() bool

	// Choose selects the TPM version. It fails if the library lacks that version.
	Choose(v tpm.Version) error
	// LibraryVersion returns the version of the library, such as "0.9.2", "" if it is not known.
	LibraryVersion() string
	// Register sets the host of all later calls.
	Register(h Host) error
	// Start powers the TPM on.
	Start() error
	// Terminate powers the TPM off. It writes nothing, and may be repeated.
	Terminate()
	// Process runs one command at the current locality, and records its code. The response
	// belongs to the caller.
	Process(cmd []byte) (rsp []byte, err error)
	// SetState passes a blob for the next Start, nil to hide the stored one. A rejected
	// blob removes those that were passed before.
	SetState(b tpm.Blob, payload []byte) error
	// Info describes the TPM as JSON; flags are TPMLIB_INFO_*.
	Info(flags uint64) (string, error)
}

// Engine is a Library that serves clients. It may be a Saver and a Loop, too.
type Engine interface {
	Library

	// SetProfile sets the algorithm profile, JSON, of the TPM 2.0 that the next Start
	// makes; Terminate clears it. Its error is errors.ErrUnsupported if the library has
	// no profiles.
	SetProfile(profile string) error
	// Manufactured reports whether the last Start created a new TPM. It is valid only for a
	// library that has profiles.
	Manufactured() bool
	// Volatile returns the serialized volatile state.
	Volatile() ([]byte, error)
	// BufferSize sets the size of the largest command and response in bytes; 0 only
	// returns it.
	BufferSize(want uint32) (size, low, high uint32)

	// Commands returns the number of commands since the process began. It needs no lock.
	Commands() uint64
	// LastCode returns the code of the last command.
	LastCode() tpm.Code
	// SetLastCode records a code that never reached the library.
	SetLastCode(c tpm.Code)
	// SetLocality sets the locality of the next command. It needs no lock.
	SetLocality(l tpm.Locality)
	// Locality returns the locality of the next command. It needs no lock.
	Locality() tpm.Locality
	// Cancel asks the running command to stop. It needs no lock.
	Cancel() error

	// HashStart begins a measurement into the PCR of locality 4, HashData extends it, and
	// HashEnd ends it.
	HashStart() error
	HashData(b []byte) error
	HashEnd() error
	// Established returns the tpmEstablished bit. It needs no lock, and does not wait for a
	// running command. While a command runs, it returns the bit from before that command.
	Established() (bool, error)
	// ResetEstablished clears the bit as locality l.
	ResetEstablished(l tpm.Locality) error
}

// Saver is an Engine that saves its state for the next process.
type Saver interface {
	// UseHandover makes the engine record in the cells of h what changes without the lock,
	// beginning with their present values, and save the volatile state after each change.
	UseHandover(h Handover)
	// SetSlotHeader makes the engine save the volatile state by itself, after header,
	// instead of calling the host. It is valid until the next call or Terminate; an empty
	// header ends it.
	SetSlotHeader(header []byte)
	// SaveState passes the volatile state to the host now, if the TPM is on. The host may
	// call it, too.
	SaveState()
}

// Loop is an Engine that waits for clients.
type Loop interface {
	// Admit sets whether Serve may run commands by itself, and ServeQueries answer
	// requests. Terminate withdraws the former.
	Admit(commands, queries bool)
	// SetDeadline sets two times in nanoseconds of CLOCK_BOOTTIME, 0 for none. From soft on,
	// Serve returns commands. From end on, it returns responses, with Event.Held.
	SetDeadline(soft, end uint64)
	// Serve waits until a descriptor of s needs the caller, or the time is up. Meanwhile
	// it answers whole, plain commands. It needs no lock. Only one goroutine calls it.
	Serve(s *handover.Set) handover.Event
	// ServeQueries does the same as Serve for the control channel: it answers the requests that
	// have a reply in s.Fixed, GET_TPMESTABLISHED of a TPM that is on, and SET_LOCALITY below 4.
	ServeQueries(s *handover.Set) handover.Event
}

// Host stores the state of a Library. Names are those of tpm.Blob.Name. The bytes that a method
// gets are valid until it returns.
type Host interface {
	// LoadState returns the payload of a stored blob; its error is fs.ErrNotExist if the
	// blob is missing. The library copies the bytes.
	LoadState(name string) ([]byte, error)
	// StoreState stores payload durably before it returns.
	StoreState(name string, payload []byte) error
	// DeleteState removes a stored blob; its error is fs.ErrNotExist if the blob is
	// missing.
	DeleteState(name string) error
	// Warnf logs a warning.
	Warnf(format string, args ...any)
}

// Recoverer is the Host of a TPM that serves clients.
type Recoverer interface {
	Host
	// SaveState saves the volatile state for the next process; it is empty if the library
	// could not return it.
	SaveState(volatile []byte)
	// Recover is called after a command, or a request, during which a callback has failed.
	// It gets the volatile state from before and the code of the last command before. It
	// may restart the engine. It returns the response that replaces the engine's; nil if
	// none does.
	Recover(before []byte, last tpm.Code) (rsp []byte)
}
