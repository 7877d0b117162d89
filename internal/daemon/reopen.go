package daemon

import (
	"context"
	"fmt"
)

// Reopen sends the log where o says from now on; after an error it goes where it
// went. A file is opened anew though it has the name of before: who rotates logs
// has moved that one. It is never emptied. The level and the prefix of libtpms's
// lines are left to the caller to hand over.
func (l *Log) Reopen(o LogOptions) error {
	o.Truncate = false
	next, err := openTarget(o)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	if err := l.redirect(ctx, next); err != nil {
		_ = next.close(ctx)
		return fmt.Errorf("log: libtpms's messages: %w", err)
	}
	if next.queue != nil {
		next.queue.common.Store(&l.fields)
	}
	last := l.to.Load()
	l.turn(next)
	return last.close(ctx)
}
