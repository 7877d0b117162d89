// Package dir stores the items of a TPM as files in a directory, in the same way as
// swtpm, so that each program can use the directory of the other:
//
//	tpm2-00.permall, tpm2-00.volatilestate       TPM 2.0
//	tpm-00.permall, .volatilestate, .savestate   TPM 1.2
//	TMP2-00.*, TMP-00.*                          while a file is written
//	*.permall.bak, *.permall.tmp                 the previous state; a state during its swap with the previous one
//	NEW2-00.*, NEW-00.*                          while several files are replaced at once
//	.lock                                        lock, empty, never removed
//
// The directory is opened once, and all files are opened through that descriptor:
// renaming the directory or its parents meanwhile changes nothing. Package safefile
// refuses what is not a regular file of a known owner.
package dir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// DefaultMode is the permission of state files before the umask. A wider one causes a
// warning.
const DefaultMode = 0o640

// The optional interfaces of backends that Dir implements.
var (
	_ nv.MovableBackend = (*Dir)(nil)
	_ nv.StatBackend    = (*Dir)(nil)
	_ nv.BackupBackend  = (*Dir)(nil)
	_ nv.BatchBackend   = (*Dir)(nil)
	_ nv.ListBackend    = (*Dir)(nil)
	_ nv.HolderBackend  = (*Dir)(nil)
	_ nv.DeferBackend   = (*Dir)(nil)
)

// Dir is a directory with the state of a TPM, an nv.Backend. It is not safe for concurrent
// use; nv.Store serializes the calls.
type Dir struct {
	o         nv.Options
	files     *safefile.Dir
	path      string // for messages
	permanent string // name of the permanent state, the only one with a backup
	mode      uint32 // of files that we write

	lock    int // .lock while we hold it; or -1
	closed  bool
	locked  bool
	swapped bool // Options.DryRun: the backup is loaded instead of the state, and vice versa

	// recovery are the files by which recover would replace others, under
	// Options.DryRun and ReadOnly; "" if it would remove the file.
	recovery map[string]string

	seen     map[string]identity // of the files that were last loaded or stored
	deferred bool                // between Defer and SyncDeferred
	unsynced map[string]identity // of the files that were loaded meanwhile

	widened, noFlock, noOFD bool // warnings that were given
}

// Open opens the directory at path, which must exist. It creates nothing.
func Open(path string, o nv.Options) (*Dir, error) {
	if path == "" {
		return nil, errors.New("the path of the state directory is empty")
	}
	if o.Warn == nil {
		o.Warn = func(string, ...any) {}
	}
	d := &Dir{o: o, path: path, permanent: o.Prefix + "permall", lock: -1, seen: map[string]identity{}}
	var err error
	d.files, err = safefile.OpenWith(path, safefile.Options{
		Adopt:        o.Adopt,
		Reserve:      true,
		ReadOnly:     o.DryRun || o.ReadOnly,
		Relaxed:      o.Relaxed,
		ModeRequired: o.ModeExplicit,
		TempPrefix:   tempName(o.Prefix),
		Warn:         o.Warn,
	})
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d.mode = uint32(o.Mode.Perm())
	if !o.ModeExplicit {
		if d.mode == 0 {
			d.mode = DefaultMode
		}
		d.mode = d.mode&^umask() | 0o600 // the owner must be able to read it again
	}
	if o.DryRun || o.ReadOnly {
		// A reader without the lock also gets the items as recover would leave
		// them. Lock reports errors of the journal.
		_ = d.planRecovery()
	}
	return d, nil
}

// warnOnce logs a warning unless given says that this was done.
func (d *Dir) warnOnce(given *bool, format string, args ...any) {
	if !*given {
		*given = true
		d.o.Warn(format, args...)
	}
}

// Moved reports whether the path of the directory leads to another one, or to none.
func (d *Dir) Moved() bool { return d.files.Moved() }

// Close unlocks and closes the directory.
func (d *Dir) Close() error {
	if d.closed {
		return nil
	}
	err := d.Unlock()
	d.closed = true
	_ = d.files.Close() // nothing was written through it
	return err
}

// umask returns the file mode creation mask of the process. The only system call that
// returns it also changes it, which would affect a file that another thread creates at
// that moment; so /proc is read first.
//
// Source: proc_pid_status(5).
func umask() uint32 {
	var start [256]byte // the line follows the name, which is short
	n := 0
	if fd, err := unix.Open("/proc/self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		n, _ = unix.Read(fd, start[:])
		unix.Close(fd)
	}
	for line := range strings.Lines(string(start[:max(n, 0)])) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok && strings.HasSuffix(v, "\n") {
			if m, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(m)
			}
		}
	}
	m := unix.Umask(0o077)
	unix.Umask(m)
	return uint32(m)
}

// checkName fails unless name is the name of a file in the directory.
func checkName(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("invalid name of a state file %q", name)
	}
	return nil
}

// checkWrite fails if name must not be changed: because of its form, or under Options.DryRun and
// ReadOnly.
func (d *Dir) checkWrite(name string) error {
	switch {
	case d.o.DryRun:
		return nv.ErrDryRun
	case d.o.ReadOnly:
		return nv.ErrReadOnly
	}
	return checkName(name)
}
