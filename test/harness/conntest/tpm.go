package conntest

import (
	"fmt"
	"strings"
	"sync"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM is the part of a fake TPM that does not depend on the carrier: it records the requests.
type TPM struct {
	mu    sync.Mutex
	fail  error
	on    bool
	calls []string
}

// Call records a call and returns the result that Fail has set.
func (f *TPM) Call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.fail
}

// Fail sets the result of every call.
func (f *TPM) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// Result returns what Fail has set.
func (f *TPM) Result() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail
}

// Took returns the calls since the last time.
func (f *TPM) Took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.calls, " ")
	f.calls = nil
	return s
}

// Set powers the TPM on or off without a call.
func (f *TPM) Set(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

// On reports whether the TPM is on.
func (f *TPM) On() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on
}

// Init powers the TPM on.
func (f *TPM) Init(del bool) error {
	err := f.Call("Init(%v)", del)
	f.Set(err == nil)
	return err
}

// Stop powers the TPM off.
func (f *TPM) Stop() error {
	f.Set(false)
	return f.Call("Stop")
}

// SetLocality refuses a locality that does not exist.
func (f *TPM) SetLocality(l tpm.Locality) error {
	if l > tpm.MaxLocality {
		return tpm.BadLocality
	}
	return f.Call("SetLocality(%d)", l)
}

// The other requests only record their calls.

func (f *TPM) Established() (bool, error) { return true, f.Call("Established") }
func (f *TPM) HashStart() error           { return f.Call("HashStart") }
func (f *TPM) HashEnd() error             { return f.Call("HashEnd") }
func (f *TPM) EndWait()                   {}
func (f *TPM) Cancel() error              { return f.Call("Cancel") }
func (f *TPM) StoreVolatile() error       { return f.Call("StoreVolatile") }
func (f *TPM) ReleaseStorage()            { _ = f.Call("ReleaseStorage") }
func (f *TPM) LockStorage(n uint32) error { return f.Call("LockStorage(%d)", n) }
