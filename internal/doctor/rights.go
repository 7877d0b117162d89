package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// user reports why the TPM cannot run as its user. The checks run as the calling user then.
func (x *examination) user(err error) {
	name := x.cfg.Sandbox.User
	where := fmt.Sprintf("[sandbox] user = %q", name)
	x.wrongUser = true
	if errors.Is(err, unix.EPERM) {
		x.add(Error, where, "start as root or as that user, or omit the key",
			"user %d may not change to %q: %v", os.Geteuid(), name, err)
	} else {
		x.add(Error, where, "", "%v", err)
	}
	x.add(Note, "", "", "the other checks ran as user %d, not as %q", os.Geteuid(), name)
}

// blockedBy describes the first parent directory of path that this user may not enter, or that is
// not a directory; "" for none.
func blockedBy(path string) string {
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

// describe returns the path with its owner and mode.
func describe(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return path
	}
	return fmt.Sprintf("%s (owner %d:%d, mode %04o)", path, st.Uid, st.Gid, st.Mode&0o7777)
}

// reason explains the error err of an operation on path. For a missing permission, it names
// the file or directory.
func reason(path string, err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "the file system is read-only"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOTDIR):
		if c := blockedBy(path); c != "" {
			return c
		}
		if errors.Is(err, unix.EACCES) {
			return fmt.Sprintf("%v: user %d, %s", err, os.Geteuid(), describeNear(path))
		}
	case errors.Is(err, fs.ErrNotExist):
		if dir := filepath.Dir(path); !exists(dir) {
			return fmt.Sprintf("missing directory %s", dir)
		}
	}
	return err.Error()
}

// describeNear describes path, or its directory if path does not exist.
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

// canUnlink returns the error that removing path would return.
func canUnlink(path string) error {
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
