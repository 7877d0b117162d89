package selftest

import (
	"fmt"
	"io/fs"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// NewMachine returns a TPM 2.0 of engine e whose state is in memory. stop powers it off;
// nothing else may use e until then.
func NewMachine(e emul.Engine) (m Machine, stop func(), err error) {
	e.Lock()
	fail := func(err error) (Machine, func(), error) {
		e.Unlock()
		return nil, nil, err
	}
	if err := e.Choose(tpm.V20); err != nil {
		return fail(fmt.Errorf("this libtpms has no TPM 2.0: %w", err))
	}
	x := &machine{engine: e}
	if err := e.Register(x); err != nil {
		return fail(err)
	}
	return x, func() { e.Terminate(); e.Unlock() }, nil
}

// machine is the engine and, as its host, the state in memory.
type machine struct {
	engine emul.Engine
	items  map[string][]byte
}

// Send runs one command.
func (m *machine) Send(cmd []byte) ([]byte, error) { return m.engine.Process(cmd) }

// Restart implements Machine.
func (m *machine) Restart(payload []byte) error {
	m.engine.Terminate()
	m.items = map[string][]byte{}
	if payload != nil {
		m.items[nv.Permanent] = payload
	}
	if err := m.engine.Start(); err != nil {
		return err
	}
	rsp, err := m.engine.Process(tpm.Startup(tpm.V20, 0))
	if err != nil {
		return err
	}
	if len(rsp) < 10 || [4]byte(rsp[6:10]) != [4]byte{} {
		return fmt.Errorf("TPM2_Startup failed: %x", rsp)
	}
	return nil
}

// LoadState implements emul.Host.
func (m *machine) LoadState(name string) ([]byte, error) {
	p, ok := m.items[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return p, nil
}

// StoreState implements emul.Host.
func (m *machine) StoreState(name string, payload []byte) error {
	m.items[name] = append([]byte(nil), payload...)
	return nil
}

// DeleteState implements emul.Host.
func (m *machine) DeleteState(name string) error {
	if _, ok := m.items[name]; !ok {
		return fs.ErrNotExist
	}
	delete(m.items, name)
	return nil
}

// Warnf implements emul.Host; what OpenSSL reads is of no interest here.
func (m *machine) Warnf(string, ...any) {}
