package setup

import (
	"context"
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	prog "github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// emulator is a running TPM, a manufacture.TPM, whose state is not stored yet.
type emulator interface {
	Execute(ctx context.Context, cmd []byte) ([]byte, error)
	Info(ctx context.Context, flags uint64) (string, error)

	// finish powers the TPM off and returns its permanent state, ready to be
	// stored.
	finish() (sealed []byte, err error)
	// close stops the TPM if it still runs and discards its state.
	close() error
}

// engine is an emulator in this process with its state in memory.
type engine struct {
	t       *emul.TPM
	scratch nv.Backend
	prefix  string
}

// unclosed is a Backend whose Close does nothing, because its owner closes it.
type unclosed struct{ nv.Backend }

func (unclosed) Close() error { return nil }

// startEngine powers on a new TPM for the location or, if from is not nil, the TPM that from
// contains, to change it. It does not change the contents of from, which it takes over and closes.
func startEngine(ctx context.Context, lib Library, loc *location, from nv.Backend, key *seal.Key, profile string, log *messages) (*engine, error) {
	e := &engine{scratch: nv.Scratch(from), prefix: loc.version.FilePrefix()}
	t, err := emul.New(ctx, lib.Engine, emul.Options{
		Version: loc.version,
		Open:    e.openStore(key, loc.last()),
		Where:   loc.Location.String(),
		Library: lib.Version,
		Profile: profile,
		Keys:    seal.Keys{File: key},
		Error:   log.Errorf,
		Remedy:  engineRemedy,
	})
	if err != nil {
		return nil, err
	}
	e.t = t
	err = t.Init(false) // logs the reason
	if err == nil {
		err = t.Startup("clear")
	}
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// openStore returns a function for emul.Options.Open, which opens the state in memory. The
// generations of a new TPM are above last.
func (e *engine) openStore(key *seal.Key, last uint64) func() (*nv.Store, error) {
	return func() (*nv.Store, error) {
		s := nv.New(e.scratch, e.prefix, key)
		s.SetWriter(generation.ThisHost(prog.Name))
		s.SetFloor(last)
		return s, nil
	}
}

// Execute implements manufacture.TPM. If ctx ends, it cancels the running command. A TPM 1.2
// ignores that, and close waits for it.
func (e *engine) Execute(ctx context.Context, cmd []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rsp, err := prog.Await(ctx, func() ([]byte, error) { return e.t.Execute(cmd) })
	switch {
	case err == prog.ErrInterrupted:
		_ = e.t.Cancel() // a TPM 1.2 cannot
		return nil, ctx.Err()
	case err == nil && rsp == nil:
		return nil, errors.New("no response from the TPM")
	}
	return rsp, err
}

// Info implements manufacture.TPM.
func (e *engine) Info(_ context.Context, flags uint64) (string, error) { return e.t.Info(flags) }

func (e *engine) finish() ([]byte, error) {
	if err := e.t.Stop(); err != nil {
		return nil, err
	}
	sealed, err := e.scratch.Load(e.prefix + nv.Permanent)
	if err != nil {
		return nil, fmt.Errorf("missing state after the power-off: %w", err)
	}
	return sealed, nil
}

func (e *engine) close() error { return e.t.Close() }

// engineRemedy returns the remedy for a state that needs a newer libtpms or a key. For other errors it
// returns "", because their remedies name options of swtpm.
func engineRemedy(err error) string {
	if e, ok := errors.AsType[*emul.TooNewError](err); ok {
		return "use " + e.Needs
	}
	if errors.Is(err, seal.ErrEncrypted) {
		return "give the key that the state was written with, --keyfile or --pwdfile"
	}
	return ""
}
