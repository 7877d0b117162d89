package daemon

import (
	"context"
	"fmt"
)

// Reopen redirects the log to where o says; after an error the log is unchanged. A file is
// opened again even if its name is the same, because logrotate has moved the old file. It
// is never emptied. The caller passes the new level and prefix to libtpms.
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
	l.setTarget(next)
	return last.close(ctx)
}
