package metrics

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// File writes the text to a file periodically, from Start to Stop.
type File struct {
	Path  string
	Every time.Duration
	Text  func() []byte
	Warn  func(format string, args ...any) // is called when a write fails, and when the next one succeeds

	// Background calls f soon on another goroutine, because the disk may be slow.
	Background func(f func())

	loop   Loop
	queued atomic.Bool // a write is in the background
	failed atomic.Bool // the last write failed, and that was reported
	mu     sync.Mutex  // held while the file is written or removed
	ended  bool        // under mu
}

// Start writes the file soon, and then each time l has waited for f.Every.
func (f *File) Start(l Loop) {
	f.loop = l
	f.next()
}

// next begins a write unless the last one still waits for the disk. It does not wait.
func (f *File) next() {
	if !f.queued.Swap(true) {
		f.Background(f.write)
	}
	f.loop.After(f.Every, f.next)
}

func (f *File) write() {
	defer f.queued.Store(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.report(Write(f.Path, f.Text()))
	}
}

// report reports the first error, and that the file is written again.
func (f *File) report(err error) {
	switch {
	case err != nil && !f.failed.Swap(true):
		f.Warn("metrics: %v; trying again", err)
	case err == nil && f.failed.Swap(false):
		f.Warn("metrics: %q is written again", f.Path)
	}
}

// Stop removes the file, because the numbers are no longer true. It waits for a write that has begun.
func (f *File) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	_ = os.Remove(f.Path)
}

// Write replaces the file at path in one step, so that a reader sees either the old or the
// new text. Every user may read the file.
func Write(path string, text []byte) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	_ = os.Remove(temporary) // left over by a process that was killed
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	_ = f.Chmod(0o644) // independent of the umask; some file systems store no modes
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

// Check returns the error that Write(path) would return, except for a full disk. It changes
// nothing.
func Check(path string) error {
	dir := filepath.Dir(path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}
	if st, err := os.Lstat(path); err == nil && st.IsDir() {
		return fmt.Errorf("%q: %w", path, unix.EISDIR)
	}
	return nil
}
