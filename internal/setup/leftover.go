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

// stagingName is what the directory of another emulator is called, stagingNames
// are all such names.
const stagingName = ".swtpm_setup."

var stagingNames = regexp.MustCompile(`^\.swtpm_setup\.[0-9]+$`)

// sweep removes what setups with --tpm that were killed have left in the state
// directory: the unfinished TPM, and its key. They were made under the lock of that
// directory, which we have now, so their setups have ended; an emulator that has
// not keeps its own lock. The place is locked.
func (p *program) sweep(loc *location) {
	if !loc.isDir() {
		return
	}
	entries, err := os.ReadDir(loc.path)
	if err != nil {
		return // who makes the TPM says so
	}
	for _, e := range entries {
		path := filepath.Join(loc.path, e.Name())
		if !stagingNames.MatchString(e.Name()) {
			continue
		}
		err := abandoned(path)
		if err == nil && othersMayChange(loc.path) {
			err = errors.New("others may change this directory, so root removes nothing in it")
		}
		if err == nil {
			err = os.RemoveAll(path)
		}
		if err != nil {
			p.log.Errorf("%s may be what a setup that was killed has left, and stays: %v", path, err)
			continue
		}
		p.log.Infof("Removed %s, which a setup that was killed has left.", path)
	}
}

// abandoned fails unless the directory is one that a setup of this user has made,
// and that no emulator works on.
func abandoned(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if st.Mode&^unix.S_ISGID != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() {
		return errors.New("it is no directory with mode 0700 that belongs to who runs this")
	}
	dir, err := safefile.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	lock, err := dir.Open(".lock", os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no emulator has begun, or none that locks
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	how := &unix.Flock_t{Type: unix.F_WRLCK}
	if unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, how) != nil {
		return errors.New("an emulator works on it still")
	}
	return nil
}
