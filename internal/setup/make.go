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
	"github.com/swtpm-go/swtpm/internal/setup/job"
	"github.com/swtpm-go/swtpm/internal/setup/tpm12"
	"github.com/swtpm-go/swtpm/internal/setup/tpm20"
)

// timeFormat is how the first and the last message tell the time.
const timeFormat = "Mon 02 Jan 2006 03:04:05 PM MST"

// make makes or changes the TPM.
func (p *program) make(ctx context.Context, pl *place, plan *plan) error {
	what := "manufacturing"
	if p.o.Reconfigure {
		what = "reconfiguration"
	}
	p.log.Infof("Starting vTPM %s as %s:%s @ %s", what, keyvalue.UserName(), groupName(), time.Now().Format(timeFormat))
	defer func() { p.log.Infof("Ending vTPM manufacturing @ %s", time.Now().Format(timeFormat)) }()
	made, err := p.manufacture(ctx, pl, plan)
	switch {
	case err != nil:
		p.log.Errorf("%v", err)
		p.log.Errorf("An error occurred. Authoring the TPM state failed.")
		return errTold
	case made:
		p.log.Infof("Successfully authored TPM state.")
	}
	return nil
}

// manufacture is make without its first and last messages: lock the place, look
// again, make the TPM apart from it, and put it in place. Until then it can be
// interrupted. made is false if another process was faster and its TPM is to stay.
func (p *program) manufacture(ctx context.Context, pl *place, plan *plan) (made bool, err error) {
	if goOn, err := p.lock(ctx, pl); !goOn || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, pl.close()) }()
	if goOn, err := p.mayMake(pl); !goOn || err != nil {
		return false, err
	}
	p.sweep(pl)
	if err := p.begin(pl); err != nil {
		return false, err
	}
	sealed, keys, err := p.author(ctx, pl, plan)
	defer seal.Wipe(sealed)
	if ctx.Err() != nil {
		return false, cli.Complain("Interrupted; %s is as it was.", pl.Location)
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
	if err := pl.commit(sealed, !p.o.Reconfigure); err != nil {
		return false, err
	}
	return true, p.register(pl, entries)
}

// How long the place of a profile's TPM is waited for while another process has it.
const (
	lockPause = 50 * time.Millisecond
	lockLimit = 2 * time.Minute
)

// lock opens and locks the place. With a profile two starts at once want the same
// TPM: the second one waits, and goes not on when the first one has made it.
func (p *program) lock(ctx context.Context, pl *place) (goOn bool, err error) {
	limit := time.After(lockLimit)
	for told := false; ; told = true {
		err := pl.open()
		if !p.o.marked || !errors.Is(err, nv.ErrLocked) {
			return true, err
		}
		if goOn, err := p.mayMake(pl); !goOn || err != nil {
			return false, err
		}
		if !told {
			p.log.Infof("Another process uses %s and may be about to make the TPM; waiting for it.", pl.Location)
		}
		select {
		case <-ctx.Done():
			return false, cli.Complain("Interrupted; %s is as it was.", pl.Location)
		case <-limit:
			return false, err
		case <-time.After(lockPause):
		}
	}
}

// author makes the TPM and returns its permanent state, as it is to be stored,
// and its keys. What is in the place stays as it is.
func (p *program) author(ctx context.Context, pl *place, plan *plan) (sealed []byte, keys []job.Made, err error) {
	if plan.profile != "" {
		p.log.Infof("Apply profile: %s", plan.asked)
	}
	m, err := p.start(ctx, pl, plan)
	if err != nil {
		return nil, nil, fmt.Errorf("could not start the TPM %s: %w", strings.TrimSuffix(pl.version.String(), ".0"), err)
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := p.tellProfile(ctx, m); err != nil {
		return nil, nil, err
	}
	plan.certs.tpm = m
	j := &job.Job{TPM: m, Certs: plan.certs, Log: p.log, Progress: p.show}
	if p.o.TPM2 {
		err = tpm20.Manufacture(ctx, j, plan.tpm20)
	} else {
		err = tpm12.Manufacture(ctx, j, plan.tpm12)
	}
	if err != nil {
		return nil, nil, err
	}
	sealed, err = m.finish()
	return sealed, j.Made, err
}

// start starts the TPM that is manufactured.
func (p *program) start(ctx context.Context, pl *place, plan *plan) (maker, error) {
	if p.argv != nil {
		return p.startProgram(ctx, pl, plan)
	}
	return startEngine(ctx, p.lib, pl, !p.o.Reconfigure, plan.key, plan.profile, p.log)
}

// tellProfile tells the profile that a new TPM has got.
func (p *program) tellProfile(ctx context.Context, m maker) error {
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
