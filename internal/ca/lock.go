package ca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// lockName is the name of the lock file in the state directory.
const lockName = ".lock.swtpm-localca"

// Intervals for the lock.
const (
	lockPause = 5 * time.Millisecond
	lockLimit = 2 * time.Minute // the creation of a CA takes seconds
)

// lock waits for the lock, which excludes other calls and processes, including those of
// swtpm_localca, until the caller calls unlock.
func (c *CA) lock(ctx context.Context) (unlock func(), err error) {
	dir, err := safefile.Open(c.cfg.StateDir)
	if err != nil {
		return nil, cli.Complain("Could not open lockfile %s/%s: %s", c.cfg.StateDir, lockName, cli.Strerror(err))
	}
	defer dir.Close()
	for {
		file, err := dir.OpenOrCreate(lockName, 0o775) // Compat: C-271: swtpm's name and mode
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil, cli.Complain("Need read/write rights on %s for user %s.%s", dir.Path(lockName), cli.UserName(), cli.OwnFiles())
		case err != nil:
			return nil, fmt.Errorf("lock: %w", err)
		}
		if err := flock(ctx, file); err != nil {
			file.Close()
			return nil, cli.Complain("Could not lock file %s: %s", dir.Path(lockName), cli.Strerror(err))
		}
		if dir.Same(lockName, file) {
			return func() { file.Close() }, nil
		}
		file.Close() // another process has removed it in the meantime
	}
}

// flock waits until it has locked the file.
func flock(ctx context.Context, file *safefile.File) error {
	limit := time.After(lockLimit)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted")
		case <-limit:
			return fmt.Errorf("another process has held it for %v", lockLimit)
		case <-time.After(lockPause):
		}
	}
}
