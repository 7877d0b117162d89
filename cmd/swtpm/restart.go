package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
)

// exitRetry is the exit code of a start that may succeed later: the system failed, not
// the profile or the state; or the previous process left a TPM that must not be lost,
// whatever is wrong. The unit prevents a new start after exit code 1 only, and systemd
// holds what the previous process left until the service has failed or is stopped.
//
// Source: sysexits.h, EX_TEMPFAIL.
const exitRetry = 75

const (
	// retryPause is how long such a process waits before it ends. It keeps the number
	// of starts below StartLimitBurst=, so that systemd tries for as long as it takes.
	retryPause = 5 * time.Second

	// resumeTime is how long one process tries to resume the TPM, and resumePause the
	// time between two tries.
	resumeTime  = 10 * time.Second
	resumePause = 500 * time.Millisecond
)

// heritage is what a start finds of the previous process of the service.
type heritage struct {
	kept     bool               // there is a TPM, or clients
	profiles *handover.Profiles // nil if there is no memory that can be read

	profile handover.Profile // this process runs with it
	changed bool             // it is another one than the previous process ran with
	problem error            // why that process's profile is used again
	started bool             // clients are served
}

// findHeritage looks at what systemd passed. It takes nothing.
func findHeritage(env func(string) string) *heritage {
	h := &heritage{}
	if env("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return h
	}
	for i, name := range strings.Split(env("LISTEN_FDNAMES"), ":") {
		if name != handover.MemoryName {
			continue
		}
		h.kept = true
		h.profiles, _ = handover.OpenProfiles(3 + i) // else openSession says why
	}
	return h
}

// choose returns the profile of the instance, or, if that has an error or the last
// start with it failed, the one that the previous process ran with.
func (h *heritage) choose(name, instance string) (cfg *config.Config, of string, err error) {
	path, of, err := find(name, instance)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	text := ""
	if err == nil {
		text, err = config.ReadProfile(path)
	}
	if err == nil {
		cfg, err = config.ParseProfile(path, text, of)
	}
	last, ok := handover.Profile{}, false
	if h.profiles != nil {
		last, ok = h.profiles.Last()
	}
	h.profile = handover.Profile{Path: path, Text: text}
	h.changed = ok && h.profile != last
	if err == nil && h.changed {
		err = h.profiles.Rejected(text)
	}
	if err == nil || !ok {
		return cfg, of, err
	}
	if of == "" { // the file was not found
		of = instance
		if of == "" {
			of = strings.TrimSuffix(filepath.Base(name), ".toml")
		}
	}
	old, oldErr := config.ParseProfile(last.Path, last.Text, of)
	if oldErr != nil { // it is of an older version of this program
		return nil, of, err
	}
	h.profile, h.changed, h.problem = last, false, err
	return old, of, nil
}

// live runs the TPM. A start that fails while the previous process's TPM is there does
// not lose it.
func (h *heritage) live(ctx context.Context, cfg *config.Config, from origin) error {
	from.heritage = h
	return h.rescue(ctx, live(ctx, cfg, from))
}

// rescue makes the error of a start one that systemd retries, if there is a TPM to
// lose.
func (h *heritage) rescue(ctx context.Context, err error) error {
	if err == nil || h.started || !h.kept {
		return err
	}
	if ctx.Err() != nil {
		return nil // the next process continues
	}
	if e, ok := errors.AsType[*program.ExitError](err); ok && e.Code == exitRetry {
		return err
	}
	retry := &program.ExitError{Code: exitRetry, Err: err, Silent: isSilent(err), Delay: retryPause}
	if h.changed {
		h.profiles.Reject(h.profile.Text, err)
		retry.Delay = 0
	}
	return retry
}

// ready notes that clients are served, and the profile with which they are.
func (h *heritage) ready(s *handover.Session) {
	h.started = true
	if h.profile.Path != "" {
		s.SaveProfile(h.profile)
	}
	h.profiles.Close()
	h.profiles = nil
}

// resume puts the TPM where the previous process has left it. It returns false if
// there is nothing to continue with.
//
// An error means that the state cannot be read for now. The kept state is untouched.
func resume(ctx context.Context, h *heritage, t *emul.TPM, s *service) (bool, error) {
	until := time.Now().Add(resumeTime)
	for told := false; ; told = true {
		ok, err := t.Resume(h.changed)
		if err == nil || ctx.Err() != nil {
			h.kept = h.kept && (ok || err != nil) // else no TPM can be lost any more
			return ok, err
		}
		if h.changed && !emul.IsTransient(err) {
			return false, err
		}
		if !told {
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

// retryable gives the error of a start the exit code that systemd retries, if the
// system failed for a moment. Compat: a classic command line ends with 1, as swtpm does.
func retryable(err error, from origin, systemd *daemon.Notifier) error {
	if from.again == nil || !emul.IsTransient(err) {
		return err
	}
	e := &program.ExitError{Code: exitRetry, Err: err, Silent: isSilent(err)}
	if systemd.Listens() {
		e.Delay = retryPause
	}
	return e
}

// lostStorage returns the error for a process that ends because it cannot reach its
// state any more: the next process continues with what is kept. If another process has
// the state, the end is an orderly one.
func lostStorage(cause error, session *handover.Session) error {
	lost := errors.Is(cause, emul.ErrStorage) && !errors.Is(cause, nv.ErrLocked)
	if session == nil || !lost && !errors.Is(cause, emul.ErrReplaced) {
		return nil
	}
	return &program.ExitError{Code: exitRetry, Err: cause, Silent: true} // it is in the log
}

// postpone is ctrl.Options.Postpone. Landlock's rules are about the directories that
// exist when the process starts: a process that can reach a new one must be a new
// process.
func (j *joint) postpone() func(err error) bool {
	if j.session == nil {
		return nil
	}
	return func(err error) bool {
		if !errors.Is(err, emul.ErrReplaced) {
			return false
		}
		j.end(err)
		return true
	}
}
