package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/swtpm-go/swtpm/internal/ca/signer"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// Names of the root CA's files, next to the signing key.
const (
	rootKeyName  = "swtpm-localca-rootca-privkey.pem"
	rootCertName = "swtpm-localca-rootca-cert.pem"
)

// rootPasswordVar is the variable with the password of the root CA's key.
const rootPasswordVar = "SWTPM_ROOTCA_PASSWORD"

// ensure creates the CA if it is missing or incomplete.
func (c *CA) ensure(ctx context.Context) error {
	if complete, err := c.complete(); err != nil || complete {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if complete, err := c.complete(); err != nil || complete {
		return err // another process created it in the meantime
	}
	c.log.Infof("Creating root CA and a local CA's signing key and issuer cert.")
	if err := c.create(ctx); err != nil {
		return fmt.Errorf("creating the local CA: %w", err)
	}
	return nil
}

// complete reports whether the CA exists and is complete. Both create and swtpm_localca
// write the issuer's certificate last, so if that is complete, so are the other files.
func (c *CA) complete() (bool, error) {
	p, err := openPair(c.cfg.SigningKey, c.cfg.IssuerCert)
	if err != nil {
		return false, err
	}
	defer p.close()
	text, _, err := p.keyDir.Read(p.keyName, maxFile)
	hasKey := err == nil && hasBlock(text, "PRIVATE KEY")
	clear(text)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return false, cli.Complain("Need read rights on signing key %s for user %s.%s", c.cfg.SigningKey, cli.UserName(), cli.OwnFiles())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("signing key: %w", err)
	}
	switch err := p.loadCert(); {
	case errors.Is(err, fs.ErrPermission):
		return false, cli.Complain("Need read rights on issuer certificate %s for user %s.%s", c.cfg.IssuerCert, cli.UserName(), cli.OwnFiles())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNoPEM):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("issuer certificate: %w", err)
	}
	return hasKey, nil
}

// create creates the root CA's key and certificate, the signing key and the issuer's
// certificate, except for those that exist. After an interruption of this program or of
// swtpm_localca, it therefore keeps all keys, and the root CA that verifiers trust. It syncs each
// file before it creates the next one.
func (c *CA) create(ctx context.Context) error {
	dir := filepath.Dir(c.cfg.SigningKey)
	root, err := openPair(filepath.Join(dir, rootKeyName), filepath.Join(dir, rootCertName))
	if err != nil {
		return err
	}
	defer root.close()
	local, err := openPair(c.cfg.SigningKey, c.cfg.IssuerCert)
	if err != nil {
		return err
	}
	defer local.close()

	password := os.Getenv(rootPasswordVar)
	if err := root.load(password, c.log); err != nil {
		if errors.Is(err, signer.ErrPassword) {
			err = fmt.Errorf("%w: set %s to the password of the root CA's key, %q", err, rootPasswordVar, root.keyDir.Path(rootKeyName))
		}
		return err
	}
	if err := local.load(c.cfg.Password, c.log); err != nil {
		return fmt.Errorf("signing key and certificate: %w", err)
	}
	if err := c.makeKeys(ctx, map[*pair]string{root: password, local: c.cfg.Password}, []*pair{root, local}); err != nil {
		return err
	}
	if root.cert == nil {
		der, err := rootCertificate(c.random, c.now(), root.key)
		if err == nil {
			err = root.storeCert(der)
		}
		if err != nil {
			return fmt.Errorf("certificate of the root CA: %w", err)
		}
	}
	der, err := caCertificate(c.random, c.now(), local.key.Public(), root.cert, root.key, signsCerts)
	if err == nil {
		err = local.storeCert(der)
	}
	if err != nil {
		return fmt.Errorf("certificate of the signing key: %w", err)
	}
	return nil
}

// makeKeys creates the missing keys concurrently and stores them in the order of pairs.
func (c *CA) makeKeys(ctx context.Context, passwords map[*pair]string, pairs []*pair) error {
	type result struct {
		key crypto.Signer
		err error
	}
	created := make(map[*pair]chan result)
	for _, p := range pairs {
		if p.key != nil {
			continue
		}
		done := make(chan result, 1)
		created[p] = done
		go func() {
			key, err := c.newKey(ctx)
			done <- result{key, err}
		}()
	}
	for _, p := range pairs {
		done, missing := created[p]
		if !missing {
			continue
		}
		r := <-done
		if r.err != nil {
			return fmt.Errorf("new key: %w", r.err)
		}
		if err := p.storeKey(r.key, passwords[p]); err != nil {
			return fmt.Errorf("new key: %w", err)
		}
	}
	return nil
}
