// Package selftest checks the installed libtpms and libcrypto with known answers. It compares the
// results of the hashes, ciphers, keys and random numbers of a TPM 2.0 with published vectors and
// with Go's own cryptography. It also checks that the TPM rejects commands that past versions
// handled wrongly.
//
// It needs a TPM that nothing else uses. A flaw may end the process, so the caller should run the
// checks in a separate process.
package selftest

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Machine is a TPM 2.0 in memory.
type Machine interface {
	transport.TPM
	// Restart powers the TPM off and on and sends TPM2_Startup(CLEAR). The TPM is a new
	// one, or the one with the permanent state payload if that is not nil.
	Restart(payload []byte) error
}

// Result is the result of one check. Programs may depend on its JSON.
type Result struct {
	Check string `json:"check"`           // "aes-256-cbc"
	Flaw  string `json:"flaw,omitempty"`  // the advisory that the check detects
	OK    bool   `json:"ok"`              // the answer was the known one
	Error string `json:"error,omitempty"` // what was wrong
}

// A check is one known answer.
type check struct {
	name string
	flaw string // published advisories of the flaw, "" if none is known
	run  func(*bench) error
}

// bench is the TPM under test.
type bench struct {
	Machine
}

// checks returns all checks in the order in which they run.
func checks() []check {
	all := hashChecks()
	all = append(all, cipherChecks()...)
	all = append(all, rsaChecks()...)
	all = append(all, eccChecks()...)
	all = append(all, refusalChecks()...)
	return append(all, randomChecks()...)
}

// checkNames returns the names of all checks in the order in which Run reports them.
func checkNames() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Run starts m anew and runs all checks. It calls begin before and end after each of
// them, so that the caller can name the check that ended the process. It fails if
// the TPM does not start.
func Run(m Machine, begin func(name string), end func(Result)) error {
	if err := m.Restart(nil); err != nil {
		return fmt.Errorf("start a TPM 2.0: %w", err)
	}
	b := &bench{m}
	for _, c := range checks() {
		begin(c.name)
		r := Result{Check: c.name, Flaw: c.flaw}
		if err := c.run(b); err != nil {
			r.Error = err.Error()
		}
		r.OK = r.Error == ""
		end(r)
	}
	return nil
}

// load loads an external key and returns its handle for a command, with an empty password. unload
// removes the key from the TPM.
func (b *bench) load(public tpm2.TPMTPublic, sensitive *tpm2.TPMTSensitive) (key tpm2.AuthHandle, unload func(), err error) {
	cmd := tpm2.LoadExternal{InPublic: tpm2.New2B(public), Hierarchy: tpm2.TPMRHNull}
	if sensitive != nil {
		cmd.InPrivate = tpm2.New2B(*sensitive)
	}
	rsp, err := cmd.Execute(b)
	if err != nil {
		return tpm2.AuthHandle{}, nil, fmt.Errorf("LoadExternal: %w", err)
	}
	unload = func() { _, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(b) }
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}, unload, nil
}

// keyAttributes returns the attributes of a key that is loaded for one check.
func keyAttributes(sign, decrypt bool) tpm2.TPMAObject {
	return tpm2.TPMAObject{UserWithAuth: true, NoDA: true, SignEncrypt: sign, Decrypt: decrypt}
}
