package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// user tells why the TPM cannot run as its user. The checks then run as the user
// who calls.
func (x *exam) user(err error) {
	name := x.cfg.Sandbox.User
	where := fmt.Sprintf("[sandbox] user = %q", name)
	x.blind = true
	if errors.Is(err, unix.EPERM) {
		x.add(Error, where, "start it as root, or as that user, or leave the key out",
			"user %d may not become %q: %v", os.Geteuid(), name, err)
	} else {
		x.add(Error, where, "", "%v", err)
	}
	x.add(Note, "", "", "what follows was looked at as user %d, who calls, not as %q", os.Geteuid(), name)
}

// closed names the first directory on the way to path that this user may not
// enter, or that is none; "" if there is no such.
func closed(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	var dirs []string
	for dir := filepath.Dir(abs); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == "/" {
			break
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		var st unix.Stat_t
		if unix.Stat(dirs[i], &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Sprintf("%s is not a directory", dirs[i])
		}
		if unix.Access(dirs[i], unix.X_OK) == unix.EACCES {
			return fmt.Sprintf("user %d may not enter %s", os.Geteuid(), describe(dirs[i]))
		}
	}
	return ""
}

// describe names a file or directory with its owner and mode.
func describe(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return path
	}
	return fmt.Sprintf("%s (owner %d:%d, mode %04o)", path, st.Uid, st.Gid, st.Mode&0o7777)
}

// reason says in words why something at path failed with err: for a lack of
// rights, whose.
func reason(path string, err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "the file system is read-only"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOTDIR):
		if c := closed(path); c != "" {
			return c
		}
		if errors.Is(err, unix.EACCES) {
			return fmt.Sprintf("%v: user %d, %s", err, os.Geteuid(), describeNear(path))
		}
	case errors.Is(err, fs.ErrNotExist):
		if dir := filepath.Dir(path); !exists(dir) {
			return fmt.Sprintf("there is no directory %s", dir)
		}
	}
	return err.Error()
}

// describeNear describes path, or the directory that it would be in.
func describeNear(path string) string {
	if !exists(path) {
		path = filepath.Dir(path)
	}
	return describe(path)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// moreRights is what helps who lacks a right.
const moreRights = "give that user the right (chown, chmod, setfacl), or choose another place"

// remedy is what helps against err in general.
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "mount it writable, or choose another place"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return moreRights
	case errors.Is(err, fs.ErrNotExist):
		return "make it, or correct the path"
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR):
		return "correct the path"
	}
	return ""
}

// mayUnlink fails as the removal of path would.
func mayUnlink(path string) error {
	dir := filepath.Dir(path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return err
	}
	var d, p unix.Stat_t
	if unix.Stat(dir, &d) != nil || unix.Lstat(path, &p) != nil {
		return nil
	}
	euid := uint32(os.Geteuid())
	if d.Mode&unix.S_ISVTX != 0 && euid != 0 && euid != d.Uid && euid != p.Uid {
		return unix.EPERM
	}
	return nil
}
