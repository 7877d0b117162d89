package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// allowRemoval adds the right to remove files in the directory of path and below, unless the
// directory is shared; the file is not removed at the end then. own are the files of this
// TPM.
func (p *Policy) allowRemoval(path, why string, own []string) {
	if dir := filepath.Dir(path); isShared(dir, own, p.chrooted) {
		p.Unremoved = append(p.Unremoved, path)
	} else {
		p.allowFile(dir, remove, why)
	}
}

// ownFiles returns the paths of the files that this TPM uses outside its state.
func ownFiles(cfg *config.Config) (paths []string) {
	for _, e := range []config.Endpoint{cfg.Interface.Server, cfg.Control.Listen, cfg.Metrics.Listen} {
		if e.Kind == config.Unix {
			paths = append(paths, e.Path)
		}
	}
	for _, path := range []string{cfg.PID.File, cfg.Log.File, cfg.Metrics.File, cfg.Pcap.File} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// isShared reports whether dir may contain files of other programs or users, which an attacker who
// controls the process must not be able to remove: a directory of the system or of another user, a
// home directory, one with the sticky bit, one that a group may write to, or one with pid files or
// logs of other processes. If chrooted is true, directories such
// as /run belong to the TPM. own are the files of this TPM.
func isShared(dir string, own []string, chrooted bool) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return false // no rule is added for it
	}
	euid := uint32(unix.Geteuid())
	switch {
	case !chrooted && belongsToSystem(dir), st.Mode&unix.S_ISVTX != 0: // without the sticky bit, users who can write can remove files
		return true
	case st.Mode&unix.S_IWGRP != 0 && st.Gid != st.Uid: // a user private group has the same number
		return true
	case euid != 0 && st.Uid != euid && st.Mode&unix.S_IWOTH == 0:
		return true
	}
	return hasOthers(dir, own)
}

// belongsToSystem reports whether dir belongs to the host or is a home directory: /run, /tmp and
// other top-level directories, /var/log and everything below, /home/USER.
func belongsToSystem(dir string) bool {
	for _, top := range []string{"/", "/var", "/home", "/run/user", "/usr"} {
		if dir == top || filepath.Dir(dir) == top {
			return true
		}
	}
	home, err := os.UserHomeDir()
	return strings.HasPrefix(dir, "/var/log/") || dir == "/run/lock" || dir == "/dev/shm" || err == nil && dir == filepath.Clean(home)
}

// hasOthers reports whether dir has, or may have, a pid file or a log of another process. It returns
// false for a directory that this process may not list, for example because of an AppArmor profile.
func hasOthers(dir string, own []string) bool {
	names, err := listDir(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrPermission)
	}
	for _, name := range names {
		kind := slices.Contains([]string{".pid", ".log"}, filepath.Ext(name))
		if kind && !slices.ContainsFunc(own, func(path string) bool { return filepath.Base(path) == name }) {
			return true
		}
	}
	return false
}

// listDir returns the names in a directory, in any order. With an error it returns the names before it.
// os.ReadDir would leave a buffer of 8 kB on the heap of each TPM.
func listDir(dir string) (names []string, err error) {
	fd := -1
	for err = unix.EINTR; err == unix.EINTR; {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var b [1024]byte
	if names, err = readNames(fd, b[:], nil); err == unix.EINVAL {
		names, err = readLongNames(fd, names)
	}
	return names, err
}

// readLongNames continues after readNames has failed with EINVAL, because the next entry is larger than the
// buffer: FUSE has names of up to 4,095 bytes. It is not inlined, so that only such names cost a larger
// stack.
//
//go:noinline
func readLongNames(fd int, names []string) ([]string, error) {
	var b [4400]byte
	return readNames(fd, b[:], names)
}

// readNames appends the names that are left in the directory fd to names.
func readNames(fd int, b []byte, names []string) ([]string, error) {
	for {
		n, err := unix.ReadDirent(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return names, err
		case n == 0:
			return names, nil
		default:
			_, _, names = unix.ParseDirent(b[:n], -1, names)
		}
	}
}
