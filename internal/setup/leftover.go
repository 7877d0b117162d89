package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// stagingName is the beginning of the names of directories for another emulator.
// stagingNames matches these names.
const stagingName = ".swtpm_setup."

var stagingNames = regexp.MustCompile(`^\.swtpm_setup\.[0-9]+$`)

// sweep removes the directories that killed setups with --tpm have left in the state
// directory, because they contain keys of unfinished TPMs. Such a setup no longer runs: it held
// the lock of the state directory, which the caller holds now. Its emulator may still run, and
// then holds a lock of its own.
func (p *program) sweep(loc *location) {
	if !loc.isDir() {
		return
	}
	entries, err := os.ReadDir(loc.path)
	if err != nil {
		return // the next step reports it
	}
	for _, e := range entries {
		path := filepath.Join(loc.path, e.Name())
		if !stagingNames.MatchString(e.Name()) {
			continue
		}
		err := abandoned(path)
		if err == nil && othersMayChange(loc.path) {
			err = errors.New("other users can change the directory, so root does not remove anything in it")
		}
		if err == nil {
			err = os.RemoveAll(path)
		}
		if err != nil {
			p.log.Errorf("Not removing %s, possibly left by a killed setup: %v", path, err)
			continue
		}
		p.log.Infof("Removed %s, left by a killed setup.", path)
	}
}

// abandoned returns nil if a setup of this user has created the directory and no emulator
// uses it.
func abandoned(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if st.Mode&^unix.S_ISGID != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() {
		return errors.New("not a directory of this user with mode 0700")
	}
	dir, err := safefile.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	lock, err := dir.Open(".lock", os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no emulator has started, or one without a lock
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	how := &unix.Flock_t{Type: unix.F_WRLCK}
	if unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, how) != nil {
		return errors.New("an emulator still uses it")
	}
	return nil
}
