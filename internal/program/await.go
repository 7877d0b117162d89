package program

import (
	"context"
	"errors"
)

// ErrInterrupted is the error of Await and AwaitError if the context ended first.
var ErrInterrupted = errors.New("interrupted")

// Await returns the result of f, or ErrInterrupted if ctx ends first. f then continues in
// its goroutine: it may wait for a pipe, a token or a peer that never answers.
func Await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ErrInterrupted
	}
}

// AwaitError does the same as Await for a function that returns only an error.
func AwaitError(ctx context.Context, f func() error) error {
	_, err := Await(ctx, func() (struct{}, error) { return struct{}{}, f() })
	return err
}
