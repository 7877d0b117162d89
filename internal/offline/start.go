package offline

import (
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// tryStart checks that the engine of a TPM of version v starts with the payloads, which have the
// names of their items as keys. It writes nothing: changes by the engine stay in memory and are
// dropped.
func tryStart(e emul.Library, v tpm.Version, payloads map[string][]byte) error {
	return whileOn(e, v, payloads, func() error {
		if _, ok := payloads[nv.Savestate]; !ok || payloads[nv.Volatile] != nil {
			return nil
		}
		return trySavestate(e, v)
	})
}

// trySavestate runs TPM_Startup, which reads the state that TPM_SaveState has saved. A
// TPM with a volatile state has read it already.
func trySavestate(e emul.Library, v tpm.Version) error {
	rsp, err := e.Process(tpm.Startup(v, startupState))
	if err != nil {
		return fmt.Errorf("libtpms does not start with this %s: %w", nv.Savestate, err)
	}
	header, ok := tpm.ParseHeader(rsp)
	if !ok || header.Code != 0 {
		return fmt.Errorf("libtpms does not start with this %s: TPM_Startup answers %x", nv.Savestate, rsp)
	}
	return nil
}

// whileOn starts the engine with payloads in memory, calls f, and stops it. The error is an
// *emul.TooNewError if the engine is too old for the payloads.
func whileOn(e emul.Library, v tpm.Version, payloads map[string][]byte, f func() error) error {
	e.Lock()
	defer e.Unlock()
	if err := e.Choose(v); err != nil {
		return fmt.Errorf("this libtpms has no TPM %s: %w", v, err)
	}
	h := &emul.MemoryHost{}
	defer h.Clear()
	for name, p := range payloads {
		if err := h.StoreState(name, p); err != nil {
			return err
		}
	}
	if err := e.Register(h); err != nil {
		return err
	}
	defer e.Terminate()
	if err := e.Start(); err != nil {
		return emul.Blame(fmt.Errorf("libtpms does not start with this state: %w", err), v, payloads[nv.Permanent], e.LibraryVersion())
	}
	return f()
}

// startupState is the startup type ST_STATE of a TPM 1.2.
//
// Source: TPM 1.2 Part 2, TPM_STARTUP_TYPE.
const startupState = 2

// tryItems does the same as tryStart for opened items. It ignores the backup, which an emulator
// does not load.
func tryItems(e emul.Library, v tpm.Version, items []item) error {
	payloads := map[string][]byte{}
	for _, i := range items {
		if i.name != nv.Backup {
			payloads[i.name] = i.payload
		}
	}
	return tryStart(e, v, payloads)
}
