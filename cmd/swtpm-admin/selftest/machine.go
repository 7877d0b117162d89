package selftest

import (
	"fmt"

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
	emul.MemoryHost
	engine emul.Engine
}

// Send runs one command.
func (m *machine) Send(cmd []byte) ([]byte, error) { return m.engine.Process(cmd) }

// Restart implements Machine.
func (m *machine) Restart(payload []byte) error {
	m.engine.Terminate()
	m.Clear()
	if payload != nil {
		if err := m.StoreState(nv.Permanent, payload); err != nil {
			return err
		}
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
