package setup

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
)

// writeFiles writes the files of --write-ek-cert-files, as DER, and of
// --public-key-files, as PEM.
func (p *program) writeFiles(keys []manufacture.Key) error {
	for _, m := range keys {
		if p.o.CertDir != "" && m.Cert != nil {
			if err := p.write(filepath.Join(p.o.CertDir, m.CertFile()), m.Cert); err != nil {
				return err
			}
		}
		if p.o.KeyDir == "" {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(m.Public)
		if err != nil {
			return fmt.Errorf("the public key of the %s: %w", m.Type, err)
		}
		name := fmt.Sprintf("%s-%s.pub.pem", m.Type, m.Algorithm)
		if err := p.write(filepath.Join(p.o.KeyDir, name), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) write(path string, b []byte) error {
	if err := writeFile(path, b, 0o640); err != nil {
		return cli.Complain("Could not write to %s: %s", path, cli.Strerror(err))
	}
	return nil
}

// entries returns the inventory entries of keys, for the inventory and the mark.
func (p *program) entries(keys []manufacture.Key) (entries []inventoryEntry, err error) {
	if p.o.Register == "" && !p.o.marked || p.o.Reconfigure {
		return nil, nil
	}
	vm, uuid := splitVMID(p.o.VMID)
	for _, m := range keys {
		e := inventoryEntry{Time: time.Now().UTC().Truncate(time.Second), VM: vm, UUID: uuid, Type: m.Type.String(), Key: m.Algorithm}
		if m.Cert != nil {
			err = e.describe(m.Cert)
		} else {
			err = e.describeKey(m.Public)
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// register adds the new keys to the mark next to the state and to the inventory.
func (p *program) register(loc *location, entries []inventoryEntry) error {
	if err := p.end(loc, entries); err != nil {
		return err
	}
	switch {
	case p.o.Register == "" || p.o.Reconfigure:
		return nil
	case p.o.Register == "-":
		return p.printEntries(entries)
	}
	if err := appendInventory(p.o.Register, entries...); err != nil {
		return fmt.Errorf("the TPM was created, but could not be added to the inventory: %w", err)
	}
	return nil
}

// reserveStdout redirects messages to stderr if the inventory is written to stdout.
func (p *program) reserveStdout(register string) {
	if register == "-" {
		p.log.stdout = p.Stderr
	}
}

func (p *program) printEntries(entries []inventoryEntry) error {
	for _, e := range entries {
		line, err := e.line()
		if err == nil {
			_, err = p.Stdout.Write(line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// printTrust prints the certificates of the local CA, for verifiers.
func (p *program) printTrust() error {
	c, err := p.readConfig()
	if err != nil {
		return err
	}
	cfg, err := ca.LoadConfig(c.value("create_certs_tool_config", ""))
	if err != nil {
		return err
	}
	bundle, err := ca.New(cfg, p.log).Bundle()
	if err != nil {
		return err
	}
	_, err = p.Stdout.Write(bundle)
	return err
}
