// Package tpm12 manufactures a TPM 1.2: the endorsement key, an owner, the
// certificates in its NV memory, and the lock on that memory. It knows the
// commands that this takes and no others; where the TPM runs and who signs is
// for the package job's caller to say.
//
// Source of the bytes: TPM Main, Part 2 (structures) and Part 3 (commands),
// revision 116. The order, and what the standard leaves open, is that of
// swtpm_setup.
package tpm12

import (
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/setup/job"
)

// Options says what a new TPM 1.2 gets. Without EK it gets neither an owner nor
// certificates, whatever the other fields say.
type Options struct {
	EK           bool
	Owner        bool // take ownership
	EKCert       bool
	PlatformCert bool // counts only with EKCert, as with swtpm_setup
	LockNV       bool // from then on NV memory asks for what its indices ask for

	OwnerAuth, SRKAuth Auth // with Owner
}

// Auth is an authorization value of a TPM 1.2, TPM_AUTHDATA.
type Auth [sha1.Size]byte

// Password returns the value that stands for a password.
func Password(s string) Auth { return sha1.Sum([]byte(s)) }

// WellKnown returns the value of a TPM whose owner, or SRK, is anybody's.
//
// Compat: swtpm_setup hashes TCG's well-known secret, 20 zero bytes, as if it
// were a password. Whoever uses its TPMs has to do the same.
func WellKnown() Auth { return Password(string(make([]byte, sha1.Size))) }

// ekName is the algorithm of the only endorsement key there is, as the names of
// certificates' files have it.
const ekName = "rsa2048"

// certIndices are the NV indices of certificates.
//
// Source: TPM Main, Part 2, 19.1.2, TPM_NV_INDEX_EKCert with the D bit; swtpm_setup
// for the platform certificate.
var certIndices = map[job.CertType]uint32{job.EK: 0x1000F000, job.Platform: 0x1000F002}

// Manufacture makes the TPM of j what o says, and tells j what was made.
func Manufacture(ctx context.Context, j *job.Job, o Options) error {
	c := client{ctx, j.TPM}
	if err := c.enable(); err != nil {
		return err
	}
	if o.EK {
		if err := equip(ctx, c, j, o); err != nil {
			return err
		}
	}
	if o.LockNV {
		if err := c.lockNV(); err != nil {
			return err
		}
		j.Log.Infof("Successfully locked NVRAM access.")
	}
	return nil
}

// equip makes the endorsement key and what depends on it.
func equip(ctx context.Context, c client, j *job.Job, o Options) error {
	done := j.Progress.Begin("RSA 2048 EK")
	ek, err := c.createEK()
	done()
	if err != nil {
		return err
	}
	j.Log.Infof("Successfully created EK.")
	made := job.Made{Type: job.EK, Name: ekName, Key: ek}

	if o.Owner {
		done := j.Progress.Begin("RSA 2048 SRK")
		err := c.takeOwnership(ek, o.OwnerAuth, o.SRKAuth)
		done()
		if err != nil {
			return err
		}
		j.Log.Infof("Successfully took ownership of the TPM.")
	}
	if o.EKCert {
		certs, err := issue(ctx, j.Certs, ek, o.PlatformCert)
		if err != nil {
			return err
		}
		for _, x := range certs {
			if err := c.store(certIndices[x.typ], x.bytes); err != nil {
				return fmt.Errorf("the %s certificate: %w", x.name, err)
			}
			j.Log.Infof("Successfully created NVRAM area for %s certificate.", x.name)
		}
		made.Cert = certs[0].forFile()
	}
	j.Add(made)
	return nil
}

// certHeader is the size in bytes of what stands before a certificate in NV
// memory, TCG_PCCLIENT_STORED_CERT and TCG_FULL_CERT.
const certHeader = 7

// cert is a certificate on its way into NV memory.
type cert struct {
	name  string // in messages
	typ   job.CertType
	bytes []byte // with its header
}

// forFile returns the certificate as --write-ek-cert-files writes it.
//
// Compat: swtpm 0.7 to 0.10 check neither the header nor the certificate. What the
// program wrote goes into the TPM, and a file gets it without its first 7 bytes if
// it has more than these.
func (c cert) forFile() []byte {
	if len(c.bytes) > certHeader {
		return c.bytes[certHeader:]
	}
	return c.bytes
}

// issue gets the certificates, all of them before one is stored.
func issue(ctx context.Context, c job.Certifier, ek *rsa.PublicKey, platform bool) ([]cert, error) {
	certs := []cert{{name: "EK", typ: job.EK}}
	if platform {
		certs = append(certs, cert{name: "Platform", typ: job.Platform})
	}
	for i, x := range certs {
		b, err := c.Issue(ctx, job.Request{Type: x.typ, Key: ek})
		if err != nil {
			return nil, err
		}
		if len(b) == 0 { // an NV index has one byte at least
			return nil, fmt.Errorf("%s certificate is empty", x.name)
		}
		certs[i].bytes = b
	}
	return certs, nil
}
