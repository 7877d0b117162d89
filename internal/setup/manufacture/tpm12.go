package manufacture

import (
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// Options12 says what a TPM 1.2 receives. Without EK it receives neither an owner nor
// certificates, whatever the other fields say.
type Options12 struct {
	EK           bool // create the endorsement key
	Owner        bool // take ownership
	EKCert       bool // store the certificate of the EK
	PlatformCert bool // store a platform certificate; needs EKCert, as with swtpm_setup
	LockNV       bool // at the end, make the TPM enforce the authorization of NV indices

	OwnerAuth, SRKAuth Auth // used with Owner
}

// Certificates returns the number of certificates that Make12 requests.
func (o Options12) Certificates() int {
	switch {
	case !o.EK || !o.EKCert:
		return 0
	case o.PlatformCert:
		return 2
	}
	return 1
}

// Auth is an authorization value of a TPM 1.2, TPM_AUTHDATA.
type Auth [sha1.Size]byte

// Password returns the authorization value of a password.
func Password(s string) Auth { return sha1.Sum([]byte(s)) }

// WellKnown returns the well-known authorization value of an owner or SRK.
//
// Compat: C-278: swtpm_setup hashes TCG's well-known secret, 20 zero bytes, like a
// password. Programs that use its TPMs have to do the same.
func WellKnown() Auth { return Password(string(make([]byte, sha1.Size))) }

// ekName12 is the algorithm of the only endorsement key, as in file names.
const ekName12 = "rsa2048"

// certIndices are the NV indices of certificates in a TPM 1.2.
//
// Source: TPM Main, Part 2, 19.1.2, TPM_NV_INDEX_EKCert with the D bit; swtpm_setup
// for the platform certificate.
var certIndices = map[cert.Type]uint32{cert.EK: 0x1000F000, cert.Platform: 0x1000F002}

// Make12 manufactures the TPM 1.2 of job. It sends the commands that swtpm_setup
// sends, in the same order.
//
// Source of the bytes: TPM Main, Part 2 (structures) and Part 3 (commands),
// revision 116.
func Make12(ctx context.Context, job *Job, o Options12) error {
	c := client12{ctx, job.TPM}
	if err := c.enable(); err != nil {
		return err
	}
	if o.EK {
		if err := c.makeEK(job, o); err != nil {
			return err
		}
	}
	if o.LockNV {
		if err := c.lockNV(); err != nil {
			return err
		}
		job.Log.Infof("Successfully locked NVRAM access.")
	}
	return nil
}

// makeEK creates the endorsement key and what depends on it.
func (c client12) makeEK(job *Job, o Options12) error {
	done := job.Progress.Begin("RSA 2048 EK")
	ek, err := c.createEK()
	done()
	if err != nil {
		return err
	}
	job.Log.Infof("Successfully created EK.")
	key := Key{Type: cert.EK, Algorithm: ekName12, Public: ek}

	if o.Owner {
		done := job.Progress.Begin("RSA 2048 SRK")
		err := c.takeOwnership(ek, o.OwnerAuth, o.SRKAuth)
		done()
		if err != nil {
			return err
		}
		job.Log.Infof("Successfully took ownership of the TPM.")
	}
	if o.EKCert {
		certs, err := issueCerts(c.ctx, job.Certs, ek, o.PlatformCert)
		if err != nil {
			return err
		}
		for _, x := range certs {
			if err := c.store(certIndices[x.typ], x.bytes); err != nil {
				return fmt.Errorf("the %s certificate: %w", x.name, err)
			}
			job.Log.Infof("Successfully created NVRAM area for %s certificate.", x.name)
		}
		key.Cert = certs[0].forFile()
	}
	job.Keys = append(job.Keys, key)
	return nil
}

// certHeader is the size in bytes of the header of a certificate in NV memory,
// TCG_PCCLIENT_STORED_CERT and TCG_FULL_CERT.
const certHeader = 7

// storedCert is a certificate in the format of NV memory.
type storedCert struct {
	name  string // in messages
	typ   cert.Type
	bytes []byte // with its header
}

// forFile returns the certificate as --write-ek-cert-files writes it.
//
// Compat: C-208: swtpm 0.7 to 0.10 check neither the header nor the certificate. The TPM
// stores the output of the certificate tool, and a file has it without its first 7
// bytes if it is longer than that.
func (c storedCert) forFile() []byte {
	if len(c.bytes) > certHeader {
		return c.bytes[certHeader:]
	}
	return c.bytes
}

// issueCerts requests the certificates. It returns either all of them or an error, so that the TPM
// never stores only one.
func issueCerts(ctx context.Context, c Certifier, ek *rsa.PublicKey, platform bool) ([]storedCert, error) {
	certs := []storedCert{{name: "EK", typ: cert.EK}}
	if platform {
		certs = append(certs, storedCert{name: "Platform", typ: cert.Platform})
	}
	for i, x := range certs {
		b, err := c.Issue(ctx, ca.Request{Type: x.typ, Key: ek})
		if err != nil {
			return nil, err
		}
		if len(b) == 0 { // an NV index has at least one byte
			return nil, fmt.Errorf("%s certificate is empty", x.name)
		}
		certs[i].bytes = b
	}
	return certs, nil
}
