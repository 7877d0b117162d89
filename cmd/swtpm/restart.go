package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
)

const (
	// retryPause is how long a process waits before it ends with exitRetry. It keeps the
	// number of starts below StartLimitBurst=, so that systemd tries for as long as it takes.
	retryPause = 5 * time.Second

	// resumeTime is how long one process tries to resume the TPM, and resumePause the
	// time between two tries.
	resumeTime  = 10 * time.Second
	resumePause = 500 * time.Millisecond
)

// previous is what a start finds of the previous process of the service.
type previous struct {
	remains  bool               // systemd has stored a TPM or clients, which must not be lost
	profiles *handover.Profiles // nil if no memory can be read

	profile handover.Profile // of this process; zero for a classic command line
	changed bool             // the previous process ran with another profile
	problem error            // why the profile of the previous process is used; nil if it is not
	started bool             // clients are served
}

// findPrevious examines what systemd passed. It takes nothing.
func findPrevious(env func(string) string) *previous {
	p := &previous{}
	if env("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return p
	}
	for i, name := range strings.Split(env("LISTEN_FDNAMES"), ":") {
		if name != handover.MemoryName {
			continue
		}
		p.remains = true
		p.profiles, _ = handover.OpenProfiles(3 + i) // openHandover logs an error
	}
	return p
}

// choose returns the profile called name, and the name of its instance. If the profile has an error or
// the last start with it failed, choose returns the profile that the previous process ran with.
func (p *previous) choose(name, instance string) (cfg *config.Config, of string, err error) {
	cfg, of, err = p.read(name, instance)
	last, ok := handover.Profile{}, false
	if p.profiles != nil {
		last, ok = p.profiles.Last()
	}
	p.changed = ok && p.profile != last
	if err == nil && p.changed {
		err = p.profiles.Rejected(p.profile.Text)
	}
	if err == nil || !ok {
		return cfg, of, err
	}
	if of == "" { // the file was not found
		of = cmp.Or(instance, strings.TrimSuffix(filepath.Base(name), ".toml"))
	}
	old, oldErr := config.ParseProfile(last.Path, last.Text, of)
	if oldErr != nil { // an older version of this program wrote it
		return nil, of, err
	}
	p.profile, p.changed, p.problem = last, false, err
	return old, of, nil
}

// read reads the profile called name, as far as that is possible, into p.profile, and parses it.
func (p *previous) read(name, instance string) (cfg *config.Config, of string, err error) {
	path, of, err := find(name, instance)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	p.profile.Path = path
	if err == nil {
		p.profile.Text, err = config.ReadProfile(path)
	}
	if err == nil {
		cfg, err = config.ParseProfile(path, p.profile.Text, of)
	}
	return cfg, of, err
}

// rescue returns the error of a start with the exit code that systemd retries, if a TPM could be
// lost otherwise.
func (p *previous) rescue(ctx context.Context, err error) error {
	if err == nil || p.started || !p.remains {
		return err
	}
	if ctx.Err() != nil {
		return nil // the next process continues
	}
	if e, ok := errors.AsType[*program.ExitError](err); ok && e.Code == exitRetry {
		return err
	}
	retry := &program.ExitError{Code: exitRetry, Err: err, Silent: isSilent(err), Delay: retryPause}
	if p.changed {
		p.profiles.Reject(p.profile.Text, err)
		retry.Delay = 0
	}
	return retry
}

// ready saves the profile with which clients are served.
func (p *previous) ready(h *handover.Handover) {
	p.started = true
	if p.profile.Path != "" {
		h.SaveProfile(p.profile)
	}
	p.profiles.Close()
	p.profiles = nil
}

// resume puts the TPM into the state in which the previous process left it. It returns
// false if there is nothing to resume.
//
// An error means that the state cannot be read for now. The saved state is untouched.
func (p *previous) resume(ctx context.Context, t *emul.TPM, s *service) (bool, error) {
	until := time.Now().Add(resumeTime)
	for logged := false; ; logged = true {
		ok, err := t.Resume(p.changed)
		if err == nil || ctx.Err() != nil {
			p.remains = p.remains && (ok || err != nil) // else no TPM can be lost any more
			return ok, err
		}
		if p.changed && !emul.IsTransient(err) {
			return false, err
		}
		if !logged {
			s.log.Errorf("%v; trying again", err)
			s.systemd.Status(fmt.Sprintf("%v; trying again", err))
		}
		if time.Now().After(until) {
			return false, &program.ExitError{Code: exitRetry, Err: err, Silent: true}
		}
		select {
		case <-ctx.Done():
		case <-time.After(resumePause):
		}
	}
}

// retryable returns the error of a start with the exit code that systemd retries, if the
// system failed temporarily.
//
// Compat: C-214: a classic command line ends with exit code 1, as in swtpm.
func (e *emulator) retryable(err error) error {
	if e.source.path == "" || !emul.IsTransient(err) {
		return err
	}
	retry := &program.ExitError{Code: exitRetry, Err: err, Silent: isSilent(err)}
	if e.service.systemd.Listens() {
		retry.Delay = retryPause
	}
	return retry
}

// lostStorage returns the error for a process that ends because it cannot reach its
// state any more: the next process continues with what this one has saved. If another
// process uses the state, the end is an orderly one.
func (e *emulator) lostStorage(cause error) error {
	lost := errors.Is(cause, emul.ErrStorage) && !errors.Is(cause, nv.ErrLocked)
	if e.handover == nil || !lost && !errors.Is(cause, emul.ErrReplaced) {
		return nil
	}
	return &program.ExitError{Code: exitRetry, Err: cause, Silent: true} // it is in the log
}
