package dir

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// newFile is what a new file of this process looks like in the directory.
type newFile struct {
	owner uint32
	links uint64
	err   error
}

// newFile creates a file in the directory, once, to see its owner and its number of
// links.
func (d *Dir) newFile() *newFile {
	if d.fresh == nil {
		d.fresh = &newFile{}
		d.fresh.owner, d.fresh.links, d.fresh.err = nv.NewFile(d.fd, tempName(d.o.Prefix), time.Now().UnixNano())
	}
	return d.fresh
}

// givesOwner reports whether the file system gives files of this process to the user
// uid, as NFS with root_squash does with root's. A directory that is only read, where
// no file can be created, is trusted on a file system where that may be so.
func (d *Dir) givesOwner(uid uint32) bool {
	if d.o.Look || d.o.ReadOnly {
		return os.Geteuid() == 0 && d.remote
	}
	f := d.newFile()
	return f.err == nil && f.owner == uid && f.owner != uint32(os.Geteuid())
}

// givesLinks reports whether every new file has n links there, which is not 1.
func (d *Dir) givesLinks(n uint64) bool {
	if d.o.Look || d.o.ReadOnly {
		return d.remote
	}
	f := d.newFile()
	return f.err == nil && f.links == n && f.links != 1
}

// chmod sets the mode of an open file; created says that this process has just created
// it. Where the file system refuses that, a mode that nobody asked for is left out, with a
// warning.
func (d *Dir) chmod(fd int, mode uint32, created bool) error {
	err := unix.Fchmod(fd, mode)
	if err == nil || !nv.CannotChmod(err) {
		return wrapMode(mode, err)
	}
	var st unix.Stat_t
	switch serr := unix.Fstat(fd, &st); {
	case serr == nil && st.Mode&0o7777 == mode:
		return nil
	case serr != nil || !created && st.Uid != uint32(os.Geteuid()) && !d.givesOwner(st.Uid): // it is for its owner to set
		return wrapMode(mode, err)
	case d.o.ModeExplicit:
		return nv.Of(nv.ErrMode, wrapMode(mode, err))
	}
	d.warnOnce(&d.noChmod, "the file system of %q refuses to set mode %#o of state files (%v); their mode is %#o", d.path, mode, err, st.Mode&0o7777)
	return nil
}

func wrapMode(mode uint32, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("set mode %#o: %w", mode, err)
}

// rights returns, in brackets, whom the file belongs to that cannot be opened, or the
// directory if there is no such file, and who this process is.
func (d *Dir) rights(name string) string {
	st, err := d.stat(name)
	what := "it"
	if err != nil {
		what = "the directory"
		if unix.Fstat(d.fd, &st) != nil {
			return ""
		}
	}
	return fmt.Sprintf(" (%s belongs to %d:%d and has mode %#o, this process is user %d)", what, st.Uid, st.Gid, st.Mode&0o7777, os.Geteuid())
}
