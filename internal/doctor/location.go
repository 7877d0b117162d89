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

// location checks the directory or the image file of the state.
func (x *examination) location() {
	l := x.cfg.State.Location
	switch {
	case l.Kind == nv.None:
		x.add(Error, "", "use --tpmstate dir=PATH, or set TPM_PATH", "no location for the state is configured")
	case l.Path == "":
		x.add(Error, l.String(), "add a path", "the path is empty")
	case l.Kind == nv.Directory:
		x.directory(l.Path)
	case l.Kind == nv.File:
		x.image(l.Path)
	case l.Kind == nv.Cluster:
		x.check = "store"
		x.cluster(l.Path)
	default:
		x.add(Error, l.String(), "use dir://PATH or file://PATH", "unknown type of location")
	}
	x.noState = x.failed("directory", "store")
}

// directory checks the state directory.
func (x *examination) directory(path string) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case err == unix.ENOENT:
		x.missing(path)
		return
	case err != nil:
		x.add(Error, path, Path(err), "cannot be read: %s", reason(path, err))
		return
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		x.add(Error, path, "correct the path", "not a directory")
		return
	}
	if err := unix.Access(path, unix.R_OK|unix.X_OK); err != nil {
		x.add(Error, path, Path(err), "cannot be read: %s", reason(path, err))
		return
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		x.add(Error, path, Path(err), "not writable, so that the TPM cannot store its state: %s", reason(path, err))
	}
	if st.Uid != uint32(x.uid) && st.Uid != 0 {
		x.add(Warning, describe(path), "change its owner to the TPM's user", "its owner, user %d, can replace the state of a TPM that runs as user %d", st.Uid, x.uid)
	}
	if st.Mode&0o022 != 0 {
		x.add(Warning, describe(path), "chmod 0700", "other users can write to it, and replace the state")
	}
}

// missing checks a state directory that does not exist.
func (x *examination) missing(path string) {
	if exists(path) {
		x.add(Error, path, "correct or remove the link", "a symbolic link whose target is missing")
		return
	}
	if !x.cfg.State.Create {
		x.add(Error, path, "create it (mkdir -m 0700), or set [tpmstate] create = true in a profile", "no such directory")
		return
	}
	parent := filepath.Dir(path)
	for !exists(parent) && parent != filepath.Dir(parent) {
		parent = filepath.Dir(parent)
	}
	if err := canCreateIn(parent); err != nil {
		x.add(Error, path, Path(err), "cannot be created: %s", reason(filepath.Join(parent, "x"), err))
		return
	}
	x.checkRoom(parent, minFree, Error)
	x.emptyState = true
	x.add(Note, path, "", "no such directory; it will be created, with a new TPM")
}

// canCreateIn returns the error that creating a file in dir would return.
func canCreateIn(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}

// space checks the free space for another copy of the state.
func (x *examination) space() {
	path, isDir := x.cfg.State.Location.Dir()
	if x.noState || x.emptyState || !isDir {
		return
	}
	need := int64(minFree)
	for _, name := range x.names() {
		if fi, err := os.Lstat(filepath.Join(path, name)); err == nil && fi.Size() < 1<<20 {
			need = max(need, fi.Size())
		}
	}
	x.checkRoom(path, need, Error)
}

// image checks an image file or block device with the state.
func (x *examination) image(path string) {
	if !exists(path) {
		if err := canCreateIn(filepath.Dir(path)); err != nil {
			x.add(Error, path, Path(err), "cannot be created: %s", reason(path, err))
			return
		}
		x.checkRoom(filepath.Dir(path), minFree, Error)
		x.emptyState = true
		x.add(Note, path, "", "no such file; it will be created, with a new TPM")
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
		x.add(Error, path, Path(errno), "cannot be read and written: %s", reason(path, errno))
	case err != nil:
		x.add(Error, path, "correct the path, or replace it by a regular file without hard links", "%v", err)
	default:
		x.imageFile(path)
	}
}

// imageFile checks an image that is a regular file.
func (x *examination) imageFile(path string) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	if st.Mode&0o777&^dir.DefaultMode != 0 {
		x.add(Warning, describe(path), "chmod 0600, or 0640", "accessible to others: the mode is wider than %04o", dir.DefaultMode)
	}
	x.checkRoom(filepath.Dir(path), minFree, Warning) // the file may have its final size already
}

// names returns the names of the state files of this TPM.
func (x *examination) names() (names []string) {
	for _, b := range x.blobs() {
		names = append(names, x.prefix()+b.Name())
	}
	return names
}

// itemName returns the name of an item for messages: the path of its file, or its name in an image.
func (x *examination) itemName(name string) string {
	l := x.cfg.State.Location
	if l.Kind == nv.Directory {
		return filepath.Join(l.Path, name)
	}
	return fmt.Sprintf("%s in %s", name, l.Path)
}
