package setup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
)

// timeFormat is the format of the time in the first and the last message.
const timeFormat = "Mon 02 Jan 2006 03:04:05 PM MST"

// make creates or changes the TPM and logs the result.
func (p *program) make(ctx context.Context, loc *location, plan *plan) error {
	task := "manufacturing"
	switch {
	case p.o.Reconfigure:
		task = "reconfiguration"
	case p.o.Clone.From != "":
		task = "cloning"
	}
	p.log.Infof("Starting vTPM %s as %s:%s @ %s", task, cli.UserName(), groupName(), time.Now().Format(timeFormat))
	defer func() { p.log.Infof("Ending vTPM manufacturing @ %s", time.Now().Format(timeFormat)) }()
	made, err := true, error(nil)
	if p.o.Clone.Keep {
		err = p.move(loc, plan.key)
	} else {
		made, err = p.manufacture(ctx, loc, plan)
	}
	switch {
	case err != nil:
		p.log.Errorf("%v", withRemedy(err))
		p.log.Errorf("An error occurred. Authoring the TPM state failed.")
		return errReported
	case made:
		p.log.Infof("Successfully authored TPM state.")
	}
	return nil
}

// manufacture locks the location, creates or changes the TPM in memory, writes the files
// for the host and stores the state. It can be interrupted until the state is stored.
// made is false if another process has already created the TPM.
func (p *program) manufacture(ctx context.Context, loc *location, plan *plan) (made bool, err error) {
	if ok, err := p.lock(ctx, loc); !ok || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, loc.close()) }()
	if ok, err := p.mayManufacture(loc); !ok || err != nil {
		return false, err
	}
	p.sweep(loc)
	if err := p.begin(loc); err != nil {
		return false, err
	}
	sealed, keys, err := p.author(ctx, loc, plan)
	defer seal.Wipe(sealed)
	if ctx.Err() != nil {
		return false, cli.Complain("Interrupted; %s is unchanged.", loc.Location)
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

// How lock waits for another process that has the location of a profile's TPM.
const (
	lockPause = 50 * time.Millisecond
	lockLimit = 2 * time.Minute
)

// lock opens and locks the location. If two processes start with the same profile, the
// second one waits; ok is false if the first one then has created the TPM.
func (p *program) lock(ctx context.Context, loc *location) (ok bool, err error) {
	limit := time.After(lockLimit)
	for logged := false; ; logged = true {
		err := loc.open()
		if !p.o.marked || !errors.Is(err, nv.ErrLocked) {
			return true, err
		}
		if ok, err := p.mayManufacture(loc); !ok || err != nil {
			return false, err
		}
		if !logged {
			p.log.Infof("%s is locked by another process, which may be creating the TPM; waiting.", loc.Location)
		}
		select {
		case <-ctx.Done():
			return false, cli.Complain("Interrupted; %s is unchanged.", loc.Location)
		case <-limit:
			return false, err
		case <-time.After(lockPause):
		}
	}
}

// author creates or changes the TPM and returns its permanent state, ready to be stored,
// and its new keys. It does not change the location.
func (p *program) author(ctx context.Context, loc *location, plan *plan) (sealed []byte, keys []manufacture.Key, err error) {
	if plan.profile != "" {
		p.log.Infof("Apply profile: %s", plan.requested)
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
	switch {
	case p.o.Clone.renews():
		plan.certs.expected = p.original.identity.Certificates()
		err = p.renew(ctx, j)
	case p.o.TPM2:
		err = manufacture.Make20(ctx, j, plan.tpm20)
	default:
		err = manufacture.Make12(ctx, j, plan.tpm12)
	}
	if err != nil {
		return nil, nil, err
	}
	sealed, err = m.finish()
	return sealed, j.Keys, err
}

// start starts the TPM in this process, or with the emulator of --tpm.
func (p *program) start(ctx context.Context, loc *location, plan *plan) (emulator, error) {
	if p.argv != nil {
		return p.startProgram(ctx, loc, plan)
	}
	var from nv.Backend
	switch {
	case p.o.Reconfigure:
		from = unclosed{loc.b}
	case p.o.Clone.renews():
		var err error
		if from, err = p.original.backend(plan.key, loc.last()); err != nil {
			return nil, err
		}
	}
	return startEngine(ctx, p.lib, loc, from, plan.key, plan.profile, p.log)
}

// logProfile logs the profile of a new TPM.
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
