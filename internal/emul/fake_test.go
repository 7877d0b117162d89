package emul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// engine is a library that records its calls. It loads its state when it starts, makes a
// new one if the state is missing, and stores it on command write.
type engine struct {
	sync.Mutex
	t    *testing.T
	host Recoverer

	version    tpm.Version // of the responses; 2.0 if it is 0
	fresh      []byte      // the state of a new TPM
	calls      []string
	on         bool
	admitted   bool
	last       tpm.Code
	locality   tpm.Locality
	startErr   error
	profileErr error        // what SetProfile fails with
	made       bool         // the last Start made the TPM
	failing    bool         // with a profile it makes no TPM, and starts nevertheless
	careless   bool         // ignores whether the state of a new TPM was stored
	results    []tpm.Result // of the next commands; then success
	mute       error        // what Process fails with
	reject     error        // what SetState fails with
	cached     map[tpm.Blob]bool
	loads      []string // what Start loaded
	volatile   []byte   // what SaveState saves
	commands   atomic.Uint64
}

// write is a command whose effect is permanent.
const write tpm.Code = 0x137

func (e *engine) call(format string, args ...any) {
	e.calls = append(e.calls, fmt.Sprintf(format, args...))
}

// took returns the calls since the last time.
func (e *engine) took() string {
	s := strings.Join(e.calls, " ")
	e.calls = nil
	return s
}

func (e *engine) locked(what string) {
	if e.TryLock() {
		e.Unlock()
		e.t.Errorf("%s without the lock", what)
	}
}

func (e *engine) Choose(v tpm.Version) error { e.locked("Choose"); return nil }
func (e *engine) LibraryVersion() string     { return "0.9.2" }
func (e *engine) Register(h Host) error      { e.locked("Register"); e.host = h.(Recoverer); return nil }

func (e *engine) SetProfile(profile string) error {
	e.locked("SetProfile")
	e.call("SetProfile(%s)", profile)
	e.failing = profile == "failing"
	return e.profileErr
}

func (e *engine) Manufactured() bool { return e.made }

func (e *engine) Start() error {
	e.locked("Start")
	e.call("Start")
	e.loads, e.made = nil, false
	for _, b := range tpm.Blobs {
		if e.cached[b] {
			continue
		}
		p, err := e.host.LoadState(b.Name())
		switch {
		case err == nil:
			e.loads = append(e.loads, fmt.Sprintf("%s:%d", b.Name(), len(p)))
		case errors.Is(err, fs.ErrNotExist) && b == tpm.Permanent && e.startErr == nil && !e.failing:
			e.made = true
			if err := e.host.StoreState(b.Name(), e.fresh); err != nil && !e.careless {
				return fmt.Errorf("start: %w: %w", tpm.Fail, err)
			}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	clear(e.cached)
	e.on = e.startErr == nil
	return e.startErr
}

func (e *engine) Terminate() {
	e.locked("Terminate")
	e.on, e.admitted = false, false
	e.call("Terminate")
}

func (e *engine) Process(cmd []byte) ([]byte, error) {
	e.locked("Process")
	if !e.on {
		e.t.Errorf("Process(%x) while off", cmd)
	}
	e.call("Process(%x)", cmd[2:])
	e.commands.Add(1)
	h, _ := tpm.ParseHeader(cmd)
	before, last := bytes.Clone(e.volatile), e.last
	e.last = h.Code
	if e.mute != nil {
		return nil, e.mute
	}
	var r tpm.Result
	if len(e.results) > 0 {
		r, e.results = e.results[0], e.results[1:]
	}
	if r == 0 && (h.Code == write || h.Code == tpm.TPM2Shutdown) {
		if err := e.host.StoreState("permall", append([]byte(nil), e.fresh...)); err != nil {
			r = tpm.RCFailure
			if rsp := e.host.Recover(before, last); rsp != nil {
				return rsp, nil
			}
		}
	}
	if e.version == tpm.V12 {
		return tpm.ErrorResponse(tpm.V12, r), nil
	}
	return tpm.ErrorResponse(tpm.V20, r), nil
}

func (e *engine) Commands() uint64           { return e.commands.Load() }
func (e *engine) LastCode() tpm.Code         { e.locked("LastCode"); return e.last }
func (e *engine) SetLastCode(c tpm.Code)     { e.locked("SetLastCode"); e.last = c }
func (e *engine) SetLocality(l tpm.Locality) { e.locality = l }
func (e *engine) Locality() tpm.Locality     { return e.locality }

func (e *engine) Volatile() ([]byte, error) { e.locked("Volatile"); return []byte("volatile"), nil }

func (e *engine) SetState(b tpm.Blob, payload []byte) error {
	e.locked("SetState")
	e.call("SetState(%d,%d)", uint32(b), len(payload))
	if e.reject != nil {
		clear(e.cached)
		return e.reject
	}
	e.cached[b] = true
	return nil
}

// HashStart and ResetEstablished store the bit, as a TPM 1.2 does.
func (e *engine) HashStart() error {
	e.locked("HashStart")
	e.call("HashStart")
	return e.host.StoreState("permall", append([]byte(nil), e.fresh...))
}

func (e *engine) HashData(b []byte) error {
	e.locked("HashData")
	e.call("HashData(%x)", b)
	return nil
}
func (e *engine) HashEnd() error { e.locked("HashEnd"); e.call("HashEnd"); return nil }

func (e *engine) Established() (bool, error) { return true, nil }

func (e *engine) ResetEstablished(l tpm.Locality) error {
	e.locked("ResetEstablished")
	e.call("ResetEstablished(%d)", l)
	return e.host.StoreState("permall", append([]byte(nil), e.fresh...))
}

func (e *engine) Cancel() error { return nil }

func (e *engine) BufferSize(want uint32) (size, low, high uint32) {
	e.locked("BufferSize")
	if want == 0 {
		want = 4096
	}
	return want, 1000, 4096
}

func (e *engine) Info(flags uint64) (string, error) { e.locked("Info"); return "{}", nil }

func (e *engine) SetDeadline(soft, end uint64)                { e.locked("SetDeadline") }
func (e *engine) Admit(commands, _ bool)                      { e.locked("Admit"); e.admitted = commands }
func (e *engine) Serve(s *handover.Set) handover.Event        { return s.Poll() }
func (e *engine) ServeQueries(s *handover.Set) handover.Event { return s.Poll() }

func (e *engine) UseHandover(Handover) { e.locked("UseHandover") }
func (e *engine) SetSlotHeader([]byte) { e.locked("SetSlotHeader") }
func (e *engine) SaveState()           { e.locked("SaveState"); e.host.SaveState(e.volatile) }

// disk is a backend in memory.
type disk struct {
	items  map[string][]byte
	other  bool // another process has the lock
	mine   bool
	busy   int                       // how many more tries find the lock held by another process
	tries  int                       // how often Lock was called
	broken error                     // what Store and Delete fail with
	fault  func(stored func()) error // what Store fails with; it may store nevertheless
	load   func() error              // what Load fails with
	writes int
}

func (d *disk) Load(name string) ([]byte, error) {
	if d.load != nil {
		if err := d.load(); err != nil {
			return nil, err
		}
	}
	b, ok := d.items[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return append([]byte(nil), b...), nil
}

func (d *disk) Store(name string, blob []byte) error {
	if d.broken != nil {
		return d.broken
	}
	if d.fault != nil {
		if err := d.fault(func() { d.items[name] = append([]byte(nil), blob...) }); err != nil {
			return err
		}
	}
	d.writes++
	d.items[name] = append([]byte(nil), blob...)
	return nil
}

func (d *disk) Delete(name string) error {
	if d.broken != nil {
		return d.broken
	}
	if _, ok := d.items[name]; !ok {
		return fs.ErrNotExist
	}
	delete(d.items, name)
	return nil
}

func (d *disk) Unchanged(string) bool { return false }

func (d *disk) Lock() error {
	d.tries++
	if d.other || d.busy > 0 {
		d.busy--
		return nv.ErrLocked
	}
	d.mine = true
	return nil
}

func (d *disk) Unlock() error { d.mine = false; return nil }
func (d *disk) Close() error  { d.mine = false; return nil }

func (d *disk) SwapBackup() error {
	const name, backup = "tpm2-00.permall", "tpm2-00.permall.bak"
	if d.items[backup] == nil {
		return fs.ErrNotExist
	}
	d.items[name], d.items[backup] = d.items[backup], d.items[name]
	return nil
}

// bench is a TPM with a fake engine and a fake disk.
type bench struct {
	*TPM
	e     *engine
	d     *disk
	notes *[]string
}

// readPayload returns a payload that libtpms has made.
func readPayload(t *testing.T, v tpm.Version, b tpm.Blob) []byte {
	t.Helper()
	dir, prefix := "tpm2-plain", "tpm2-00."
	if v == tpm.V12 {
		dir, prefix = "tpm12-plain", "tpm-00."
	}
	blob, err := os.ReadFile(filepath.Join("../seal/testdata/state", dir, prefix+b.Name()))
	if err != nil {
		t.Fatal(err)
	}
	p, err := seal.Open(blob, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newBench(t *testing.T, o Options) *bench {
	t.Helper()
	if o.Version == 0 {
		o.Version = tpm.V20
	}
	e := &engine{t: t, fresh: readPayload(t, o.Version, tpm.Permanent), cached: map[tpm.Blob]bool{}}
	d := &disk{items: map[string][]byte{}}
	notes := new([]string)
	prefix := map[tpm.Version]string{tpm.V12: "tpm-00.", tpm.V20: "tpm2-00."}[o.Version]
	o.Open = func() (*nv.Store, error) { return nv.New(d, prefix, o.Keys.File), nil }
	o.Where = "a fake"
	o.Note = func(format string, args ...any) { *notes = append(*notes, fmt.Sprintf(format, args...)) }
	o.Error = o.Note
	o.Remedy = func(error) string { return "see the manual" }
	x, err := New(context.Background(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{TPM: x, e: e, d: d, notes: notes}
}

// on powers the TPM on and discards the calls that this made.
func (b *bench) on(t *testing.T) *bench {
	t.Helper()
	if err := b.Init(false); err != nil {
		t.Fatal(err)
	}
	b.e.took()
	*b.notes = nil
	return b
}

// run executes a command and returns the response.
func (b *bench) run(t *testing.T, raw []byte) []byte {
	t.Helper()
	rsp, err := b.Execute(raw)
	if err != nil {
		t.Fatalf("Execute(%x): %v", raw, err)
	}
	return rsp
}

// callback calls f as the engine calls its host.
func (b *bench) callback(f func(host) error) error {
	b.e.Lock()
	defer b.e.Unlock()
	return f(host{b.TPM})
}

// header returns a command without parameters.
func header(tag uint16, code tpm.Code) []byte {
	return []byte{byte(tag >> 8), byte(tag), 0, 0, 0, 10, byte(code >> 24), byte(code >> 16), byte(code >> 8), byte(code)}
}
