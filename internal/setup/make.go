package setup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/keyvalue"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
)

// timeFormat is how the first and the last message tell the time.
const timeFormat = "Mon 02 Jan 2006 03:04:05 PM MST"

// make makes or changes the TPM.
func (p *program) make(ctx context.Context, loc *location, plan *plan) error {
	what := "manufacturing"
	if p.o.Reconfigure {
		what = "reconfiguration"
	}
	p.log.Infof("Starting vTPM %s as %s:%s @ %s", what, keyvalue.UserName(), groupName(), time.Now().Format(timeFormat))
	defer func() { p.log.Infof("Ending vTPM manufacturing @ %s", time.Now().Format(timeFormat)) }()
	made, err := p.manufacture(ctx, loc, plan)
	switch {
	case err != nil:
		p.log.Errorf("%v", err)
		p.log.Errorf("An error occurred. Authoring the TPM state failed.")
		return errReported
	case made:
		p.log.Infof("Successfully authored TPM state.")
	}
	return nil
}

// manufacture is make without its first and last messages: lock the place, look
// again, make the TPM apart from it, and put it in place. Until then it can be
// interrupted. made is false if another process was faster and its TPM is to stay.
func (p *program) manufacture(ctx context.Context, loc *location, plan *plan) (made bool, err error) {
	if goOn, err := p.lock(ctx, loc); !goOn || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, loc.close()) }()
	if goOn, err := p.mayManufacture(loc); !goOn || err != nil {
		return false, err
	}
	p.sweep(loc)
	if err := p.begin(loc); err != nil {
		return false, err
	}
	sealed, keys, err := p.author(ctx, loc, plan)
	defer seal.Wipe(sealed)
	if ctx.Err() != nil {
		return false, cli.Complain("Interrupted; %s is as it was.", loc.Location)
	}
	if err != nil {
		return false, err
	}
	entries, err := p.entries(keys)
	if err != nil {
		return false, err
	}
	if err := p.writeFiles(keys); err != nil {
		return false, err
	}
	if err := loc.commit(sealed, !p.o.Reconfigure); err != nil {
		return false, err
	}
	return true, p.register(loc, entries)
}

// How long the place of a profile's TPM is waited for while another process has it.
const (
	lockPause = 50 * time.Millisecond
	lockLimit = 2 * time.Minute
)

// lock opens and locks the place. With a profile two starts at once want the same
// TPM: the second one waits, and goes not on when the first one has made it.
func (p *program) lock(ctx context.Context, loc *location) (goOn bool, err error) {
	limit := time.After(lockLimit)
	for told := false; ; told = true {
		err := loc.open()
		if !p.o.marked || !errors.Is(err, nv.ErrLocked) {
			return true, err
		}
		if goOn, err := p.mayManufacture(loc); !goOn || err != nil {
			return false, err
		}
		if !told {
			p.log.Infof("Another process uses %s and may be about to make the TPM; waiting for it.", loc.Location)
		}
		select {
		case <-ctx.Done():
			return false, cli.Complain("Interrupted; %s is as it was.", loc.Location)
		case <-limit:
			return false, err
		case <-time.After(lockPause):
		}
	}
}

// author makes the TPM and returns its permanent state, as it is to be stored,
// and its keys. What is in the place stays as it is.
func (p *program) author(ctx context.Context, loc *location, plan *plan) (sealed []byte, keys []manufacture.Key, err error) {
	if plan.profile != "" {
		p.log.Infof("Apply profile: %s", plan.asked)
	}
	m, err := p.start(ctx, loc, plan)
	if err != nil {
		return nil, nil, fmt.Errorf("could not start the TPM %s: %w", strings.TrimSuffix(loc.version.String(), ".0"), err)
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := p.logProfile(ctx, m); err != nil {
		return nil, nil, err
	}
	plan.certs.tpm = m
	j := &manufacture.Job{TPM: m, Certs: plan.certs, Log: p.log, Progress: p.show}
	if p.o.TPM2 {
		err = manufacture.Make20(ctx, j, plan.tpm20)
	} else {
		err = manufacture.Make12(ctx, j, plan.tpm12)
	}
	if err != nil {
		return nil, nil, err
	}
	sealed, err = m.finish()
	return sealed, j.Keys, err
}

// start starts the TPM that is manufactured.
func (p *program) start(ctx context.Context, loc *location, plan *plan) (emulator, error) {
	if p.argv != nil {
		return p.startProgram(ctx, loc, plan)
	}
	return startEngine(ctx, p.lib, loc, !p.o.Reconfigure, plan.key, plan.profile, p.log)
}

// logProfile tells the profile that a new TPM has got.
func (p *program) logProfile(ctx context.Context, m emulator) error {
	if !p.o.TPM2 || p.o.Reconfigure {
		return nil
	}
	text, err := m.Info(ctx, infoActive)
	if err != nil {
		return err
	}
	if active, ok := strings.CutPrefix(strings.TrimSpace(text), `{"ActiveProfile":`); ok {
		p.log.Infof("Active profile: %s", strings.TrimSuffix(active, "}"))
	}
	return nil
}
