// Package manufacture sends the commands to a new TPM that set it up: they create keys, store
// certificates in NV memory, take ownership, and choose the PCR banks. Make20 does so for a
// TPM 2.0, Make12 for a TPM 1.2. Package setup decides where the TPM runs, how its
// state is stored and which CA signs.
//
// Package setup stores the state of the TPM only after all commands have succeeded. Make20 and
// Make12 therefore return the first error and undo nothing, and an interrupted manufacture has
// no effect.
package manufacture

import (
	"context"
	"crypto"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// TPM is the TPM that is manufactured. Its power is on, it has had a startup of
// type clear, and it has no other user.
type TPM interface {
	// Execute sends one complete command at locality 0 and returns the complete
	// response, whose code may be an error. It returns an error if there is no
	// response, or if ctx ends first, which also cancels a running command. It
	// may change cmd. The response belongs to the caller.
	Execute(ctx context.Context, cmd []byte) (rsp []byte, err error)

	// Info describes the TPM as JSON; flags are TPMLIB_INFO_* of libtpms.
	Info(ctx context.Context, flags uint64) (string, error)
}

// Certifier issues the certificates of a TPM.
type Certifier interface {
	// Issue returns a certificate in the form that the TPM stores: DER, for a
	// TPM 1.2 after a header of seven bytes. The Certifier sets the fields of r that
	// describe the TPM and the virtual machine.
	Issue(ctx context.Context, r ca.Request) ([]byte, error)
}

// Log prints messages, one per call, without newline.
type Log interface {
	Infof(format string, args ...any)  // to stdout unless there is a log file
	Errorf(format string, args ...any) // to stderr unless there is a log file
}

// Progress shows the user that a step takes time.
type Progress interface {
	// Begin shows the name of a step, such as "RSA 2048 EK", until the caller
	// calls done. Steps do not overlap.
	Begin(step string) (done func())
}

// Job is one TPM to manufacture, and the keys that it has received so far.
type Job struct {
	TPM      TPM
	Certs    Certifier
	Log      Log
	Progress Progress

	Keys []Key // in the order in which they were created
}

// Key is a key that was created in the TPM.
type Key struct {
	Type      cert.Type        // EK, IAK or IDevID
	Algorithm string           // "rsa2048", "secp384r1" and so on
	Handle    uint32           // persistent handle; 0 in a TPM 1.2
	Public    crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	Cert      []byte           // its certificate in DER; nil if it has none
}

// CertFile returns the name of the file that --write-ek-cert-files writes for k.
func (k Key) CertFile() string { return fmt.Sprintf("%s-%s.crt", k.Type, k.Algorithm) }
