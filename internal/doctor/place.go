package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
)

// The smallest rooms that a store of the state needs beside the old one, in
// bytes; below the second it is told.
const (
	leastRoom = 16 << 10
	shortRoom = 1 << 20
)

// place looks at the directory, or the image file, of the state.
func (x *exam) place() {
	l := x.cfg.State.Location
	switch {
	case l.Kind == nv.None:
		x.add(Error, "", "give --tpmstate dir=PATH or set TPM_PATH", "no place for the state is named")
	case l.Path == "":
		x.add(Error, l.String(), "name a path", "the path is empty")
	case l.Kind == nv.Directory:
		x.directory(l.Path)
	case l.Kind == nv.File:
		x.image(l.Path)
	default:
		x.add(Error, l.String(), "use dir://PATH or file://PATH", "there is no such kind of place")
	}
	x.noState = x.failed("directory")
}

// directory looks at the directory of the state.
func (x *exam) directory(path string) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case err == unix.ENOENT:
		x.missing(path)
		return
	case err != nil:
		x.add(Error, path, remedy(err), "cannot be looked at: %s", reason(path, err))
		return
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		x.add(Error, path, "correct the path", "not a directory")
		return
	}
	if err := unix.Access(path, unix.R_OK|unix.X_OK); err != nil {
		x.add(Error, path, remedy(err), "cannot be read: %s", reason(path, err))
		return
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		x.add(Error, path, remedy(err), "no file can be made there, so the TPM could not keep its state: %s", reason(path, err))
	}
	if st.Uid != uint32(x.uid) && st.Uid != 0 {
		x.add(Warning, describe(path), "make it the directory of the TPM's user", "its owner, user %d, can replace the state of a TPM that runs as user %d", st.Uid, x.uid)
	}
	if st.Mode&0o022 != 0 {
		x.add(Warning, describe(path), "chmod 0700", "others can write to it, and replace the state")
	}
}

// missing looks at a directory that is not there.
func (x *exam) missing(path string) {
	if exists(path) {
		x.add(Error, path, "correct or remove the link", "a symbolic link that leads nowhere")
		return
	}
	if !x.cfg.State.Create {
		x.add(Error, path, "make it (mkdir -m 0700), or set [tpmstate] create = true in a profile", "there is no such directory")
		return
	}
	above := filepath.Dir(path)
	for !exists(above) && above != filepath.Dir(above) {
		above = filepath.Dir(above)
	}
	if err := mayMakeIn(above); err != nil {
		x.add(Error, path, remedy(err), "cannot be made: %s", reason(filepath.Join(above, "x"), err))
		return
	}
	x.noRoom(above, leastRoom, Error)
	x.emptyState = true
	x.add(Note, path, "", "there is no such directory; it will be made, and a new TPM in it")
}

// mayMakeIn fails as making something in dir would.
func mayMakeIn(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}

// space looks whether there is room for another copy of the state.
func (x *exam) space() {
	path, isDir := x.cfg.State.Location.Dir()
	if x.noState || x.emptyState || !isDir {
		return
	}
	need := int64(leastRoom)
	for _, name := range x.names() {
		if fi, err := os.Lstat(filepath.Join(path, name)); err == nil && fi.Size() < 1<<20 {
			need = max(need, fi.Size())
		}
	}
	x.noRoom(path, need, Error)
}

// noRoom tells if the file system of dir has not need bytes for this user, which
// is as severe as s. Root may use what is kept back. Quotas are not looked at.
func (x *exam) noRoom(dir string, need int64, s Severity) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return
	}
	free := st.Bavail
	if x.uid == 0 {
		free = st.Bfree
	}
	room := int64(min(free, 1<<40)) * int64(st.Bsize) // not of 64 bits everywhere
	was := x.check
	x.check = "space"
	defer func() { x.check = was }()
	switch {
	case room < need:
		x.add(s, dir, "make room", "the file system is full: %d bytes are free, a change of the state needs %d", room, need)
	case st.Files > 0 && st.Ffree == 0:
		x.add(s, dir, "remove files", "the file system has no inode left for a new file")
	case room < shortRoom:
		x.add(Warning, dir, "make room", "the file system is nearly full: %d bytes are free", room)
	}
}

// image looks at an image file or block device with the state.
func (x *exam) image(path string) {
	if !exists(path) {
		if err := mayMakeIn(filepath.Dir(path)); err != nil {
			x.add(Error, path, remedy(err), "cannot be made: %s", reason(path, err))
			return
		}
		x.noRoom(filepath.Dir(path), leastRoom, Error)
		x.emptyState = true
		x.add(Note, path, "", "there is no such file; it will be made, and a new TPM in it")
		return
	}
	b, err := x.open(x.cfg.TPM, false, nil)
	if err == nil {
		_ = b.Close()
		err = unix.Access(path, unix.R_OK|unix.W_OK)
	}
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		x.add(Error, path, remedy(errno), "cannot be read and written: %s", reason(path, errno))
	case err != nil:
		x.add(Error, path, "correct the path, or make it a regular file with one name", "%v", err)
	default:
		x.imageFile(path)
	}
}

// imageFile looks at what is of a regular file alone.
func (x *exam) imageFile(path string) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	if st.Mode&0o777&^dir.DefaultMode != 0 {
		x.add(Warning, describe(path), "chmod 0600, or 0640", "open to others, wider than %04o", dir.DefaultMode)
	}
	x.noRoom(filepath.Dir(path), leastRoom, Warning) // it may have grown already to all that it needs
}

// names are those of the state files of this TPM.
func (x *exam) names() (names []string) {
	for _, b := range x.blobs() {
		names = append(names, x.prefix()+b.Name())
	}
	return names
}

// at names an item for people: the file, or the item in an image.
func (x *exam) at(name string) string {
	l := x.cfg.State.Location
	if l.Kind == nv.Directory {
		return filepath.Join(l.Path, name)
	}
	return fmt.Sprintf("%s in %s", name, l.Path)
}
