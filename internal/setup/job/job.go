// Package job is the manufacture of one TPM as the code that manufactures sees
// it: the TPM that takes commands, who issues certificates, where messages go,
// what shows that something takes its time, and what came of it. It leaves to
// package setup where the TPM runs, how its state reaches the disk, and which
// program signs.
//
// A TPM is manufactured apart from the place where its state will be: nothing of
// it is there before everything has succeeded. So whoever manufactures returns
// the first error and undoes nothing, and an interrupted manufacture is one that
// never was.
package job

import (
	"context"
	"crypto"
	"fmt"
)

// TPM is the TPM that is manufactured. It has power and was started, with
// TPM_Startup or TPM2_Startup of type clear, and nobody else uses it.
type TPM interface {
	// Execute sends one whole command at locality 0 and returns the whole
	// response, whatever it says. An error means that there is none: the TPM
	// has gone, or ctx has ended, which stops also a command that runs. cmd
	// may be changed. The response belongs to the caller.
	Execute(ctx context.Context, cmd []byte) (rsp []byte, err error)

	// Info describes the TPM as JSON; flags are TPMLIB_INFO_* of libtpms.
	Info(ctx context.Context, flags uint64) (string, error)
}

// Certifier issues the certificates of a TPM.
type Certifier interface {
	// Issue returns a certificate as it goes into the TPM: DER, for a
	// TPM 1.2 behind the seven bytes of its header.
	Issue(ctx context.Context, r Request) ([]byte, error)
}

// Request asks for a certificate.
type Request struct {
	Type CertType
	Key  crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey

	// Signing and Decryption are what an EK may do that usual ones may not
	// or need not say.
	Signing, Decryption bool

	// Serial is the serial number of the TPM, for IAK and IDevID; "" for
	// none.
	Serial string
}

// CertType says which certificate it is, in the words of swtpm_localca.
type CertType string

// The types of certificates.
const (
	EK       CertType = "ek"
	Platform CertType = "platform"
	IAK      CertType = "iak"
	IDevID   CertType = "idevid"
)

// Log takes the messages of a manufacture, one call for each, without newline.
type Log interface {
	Infof(format string, args ...any)  // stdout unless there is a log file
	Errorf(format string, args ...any) // stderr unless there is a log file
}

// Progress shows a person that something takes its time.
type Progress interface {
	// Begin says that what has begun, in words like "RSA 2048 EK"; done ends
	// it and is not nil. Only one thing is under way at a time.
	Begin(what string) (done func())
}

// Job is one TPM to manufacture, and what came of it so far.
type Job struct {
	TPM      TPM
	Certs    Certifier
	Log      Log
	Progress Progress

	Made []Made // in the order in which they were made
}

// Made is a key that the TPM has got.
type Made struct {
	Type   CertType         // EK, IAK or IDevID
	Name   string           // of its algorithm: "rsa2048", "secp384r1" and so on
	Handle uint32           // where it is; 0 in a TPM 1.2
	Key    crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	Cert   []byte           // its certificate, DER; nil without
}

// CertFile is the name of the file with the certificate of m, where one is asked
// for.
func (m Made) CertFile() string { return fmt.Sprintf("%s-%s.crt", m.Type, m.Name) }

// Add notes a key that was made.
func (j *Job) Add(m Made) { j.Made = append(j.Made, m) }
