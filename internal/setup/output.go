package setup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/setup/job"
	"github.com/swtpm-go/swtpm/internal/tool"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// writeFiles writes what the host wants to have of the TPM: certificates as
// DER, public keys as PEM.
func (p *program) writeFiles(made []job.Made) error {
	for _, m := range made {
		if p.o.CertDir != "" && m.Cert != nil {
			if err := p.write(filepath.Join(p.o.CertDir, m.CertFile()), m.Cert); err != nil {
				return err
			}
		}
		if p.o.KeyDir == "" {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(m.Key)
		if err != nil {
			return fmt.Errorf("the public key of the %s: %w", m.Type, err)
		}
		name := fmt.Sprintf("%s-%s.pub.pem", m.Type, m.Name)
		if err := p.write(filepath.Join(p.o.KeyDir, name), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) write(path string, b []byte) error {
	if err := writeFile(path, b, 0o640); err != nil {
		return tool.Complain("Could not write to %s: %s", path, tool.Strerror(err))
	}
	return nil
}

// entry is a line of the inventory: a TPM that was made, and the keys that others
// know it by.
type entry struct {
	VM      string  `json:"vm,omitempty"`
	UUID    string  `json:"uuid,omitempty"`
	TPM     string  `json:"tpm"`
	State   string  `json:"state"`
	Created string  `json:"created,omitempty"`
	Keys    []idKey `json:"keys"`
}

// idKey is a key of a TPM.
type idKey struct {
	Type        job.CertType `json:"type"`
	Algorithm   string       `json:"algorithm"`
	Fingerprint string       `json:"fingerprint"` // SHA-256 of the SubjectPublicKeyInfo
	Issuer      string       `json:"issuer,omitempty"`
	Serial      string       `json:"serial,omitempty"` // decimal
}

// newEntry describes a TPM. vmid is NAME:UUID, as libvirt has it, or a name.
func newEntry(vmid string, v tpm.Version, state string, made []job.Made) (entry, error) {
	e := entry{VM: vmid, TPM: v.String(), State: state, Keys: []idKey{}}
	if i := strings.LastIndexByte(vmid, ':'); i >= 0 {
		e.VM, e.UUID = vmid[:i], vmid[i+1:]
	}
	for _, m := range made {
		der, err := x509.MarshalPKIXPublicKey(m.Key)
		if err != nil {
			return e, fmt.Errorf("the public key of the %s: %w", m.Type, err)
		}
		sum := sha256.Sum256(der)
		k := idKey{Type: m.Type, Algorithm: m.Name, Fingerprint: hex.EncodeToString(sum[:])}
		if m.Cert != nil {
			cert, err := x509.ParseCertificate(m.Cert)
			if err != nil {
				return e, fmt.Errorf("the certificate of the %s: %w", m.Type, err)
			}
			k.Issuer, k.Serial = cert.Issuer.String(), cert.SerialNumber.String()
		}
		e.Keys = append(e.Keys, k)
	}
	return e, nil
}

// register appends the line of the inventory.
func (p *program) register(pl *place, made []job.Made) error {
	if p.o.Register == "" || p.o.Reconfigure {
		return nil
	}
	e, err := newEntry(p.o.VMID, pl.version, pl.uri, made)
	if err != nil {
		return err
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if p.o.Register == "-" {
		_, err := p.Stdout.Write(line)
		return err
	}
	if err := appendLine(p.o.Register, line); err != nil {
		return fmt.Errorf("the TPM is made, but could not be entered in the inventory %q: %w", p.o.Register, err)
	}
	return nil
}

// appendLine appends a line to a file that several processes write.
func appendLine(path string, line []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NOCTTY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	return f.Sync()
}

// printTrust prints the certificates that a verifier of those of the local CA has
// to trust, and those between.
func (p *program) printTrust(_ context.Context) error {
	c, err := p.readConfig()
	if err != nil {
		return err
	}
	path := c.value("create_certs_tool_config", filepath.Join(sysDir, "swtpm-localca.conf"))
	ca, err := readConf(path, p.Env)
	if err != nil {
		return tool.Complain("User %s cannot read config file %s.", userName(), path)
	}
	issuer := ca.value("issuercert", "")
	if issuer == "" {
		return tool.Complain("%s names no issuercert.", path)
	}
	bundle, err := trustBundle(issuer, ca.value("signingkey", ""))
	if err != nil {
		return err
	}
	_, err = p.Stdout.Write(bundle)
	return err
}

// trustBundle returns the issuer's certificate and, if it is there, the one of the
// root that a local CA was made with, which is beside the signing key.
func trustBundle(issuer, signingKey string) ([]byte, error) {
	paths := []string{issuer}
	if signingKey != "" && !strings.HasPrefix(signingKey, "pkcs11:") {
		paths = append(paths, filepath.Join(filepath.Dir(signingKey), "swtpm-localca-rootca-cert.pem"))
	}
	var out bytes.Buffer
	for i, path := range paths {
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) && i > 0 {
			continue
		}
		if err != nil {
			return nil, tool.Complain("Could not read %s: %s", path, tool.Strerror(err))
		}
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
			}
		}
	}
	if out.Len() == 0 {
		return nil, tool.Complain("There is no certificate in %s.", issuer)
	}
	return out.Bytes(), nil
}
