package main

import (
	"context"
	"errors"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/program"
)

// exitRetry is the exit code of a start that may succeed later: the system failed, not
// the profile or the state; or the previous process left a TPM that must not be lost.
// The unit prevents a new start after exit code 1 only, and systemd holds what the
// previous process left until the service has failed or is stopped.
//
// Source: sysexits.h, EX_TEMPFAIL.
const exitRetry = 75

// The exit codes of swtpm cuse for the steps of a start; package config has the exit codes for
// its command line.
const (
	cuseStart   = 255 // -1: the device already exists, or the TPM does not start
	cuseInput   = 253 // -3: a key or a profile cannot be read
	cuseNotRoot = 252 // -4
	cuseNoUser  = 251 // -5
	cusePID     = 243 // -13: the pid file, after the device was created
	cuseSandbox = 242 // -14
)

// codedError is an error for which swtpm cuse has an exit code of its own.
type codedError struct {
	code int
	err  error
}

// Error returns the text of the error.
func (e *codedError) Error() string { return e.err.Error() }

// Unwrap returns the error.
func (e *codedError) Unwrap() error { return e.err }

// withCode returns err with an exit code of swtpm cuse, or nil if err is nil.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code, err}
}

// exitCode returns err as an ExitError if the interface has an exit code of its own for it.
// A code that makes systemd start the service again has precedence.
func exitCode(iface config.InterfaceKind, err error) error {
	if e, ok := errors.AsType[*program.ExitError](err); ok && e.Code == exitRetry {
		return err
	}
	if c, ok := errors.AsType[*codedError](err); ok && iface == config.CUSE {
		return &program.ExitError{Code: c.code, Err: err, Silent: isSilent(err)}
	}
	return err
}

// silent returns an error with exit code 1 that wraps err, which was printed or logged already.
func silent(err error) error { return &program.ExitError{Code: 1, Err: err, Silent: true} }

// isSilent reports whether err was printed or logged already.
func isSilent(err error) bool {
	e, ok := errors.AsType[*program.ExitError](err)
	return ok && e.Silent
}

// unlessEnding returns err, or nil if ctx has ended: a signal while the process waits for a
// key or a profile is not a failure.
func unlessEnding(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
