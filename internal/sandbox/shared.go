package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// mayRemove adds the right to remove files, which is for everything in the directory of
// path and below, unless the directory is shared: the file stays at the end then. ours are
// the files of this TPM.
func (p *Policy) mayRemove(path, why string, ours []string) {
	if dir := filepath.Dir(path); isShared(dir, ours, p.jailed) {
		p.Stays = append(p.Stays, path)
	} else {
		p.place(dir, remove, why)
	}
}

// ownFiles returns the paths of the files that this TPM has or makes outside its state.
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

// isShared reports whether others than this TPM have files in dir: it is a directory of
// the system or of a user, a group writes there, or everybody with the sticky bit, or it
// has pid files or logs of other processes. A process that has been taken over must not
// remove these. In a root directory of its own, jailed, /run and the like are the TPM's.
func isShared(dir string, ours []string, jailed bool) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return false // no rule can name it either
	}
	euid := uint32(unix.Geteuid())
	switch {
	case !jailed && ofSystem(dir), st.Mode&unix.S_ISVTX != 0: // without the sticky bit, whoever can write can remove
		return true
	case st.Mode&unix.S_IWGRP != 0 && st.Gid != st.Uid: // a user's own group has the user's number
		return true
	case euid != 0 && st.Uid != euid && st.Mode&unix.S_IWOTH == 0:
		return true
	}
	return hasOthers(dir, ours)
}

// ofSystem reports whether dir belongs to the whole host or to a whole user, whatever its
// mode: /run, /tmp and other directories below the top, /var/log with all below, /home/USER.
func ofSystem(dir string) bool {
	for _, top := range []string{"/", "/var", "/home", "/run/user", "/usr"} {
		if dir == top || filepath.Dir(dir) == top {
			return true
		}
	}
	home, err := os.UserHomeDir()
	return strings.HasPrefix(dir, "/var/log/") || dir == "/run/lock" || dir == "/dev/shm" || err == nil && dir == filepath.Clean(home)
}

// hasOthers reports whether dir has a pid file or a log of another process. A directory
// that cannot be listed, because of AppArmor's profile of swtpm for example, is judged by
// its mode and owner alone.
func hasOthers(dir string, ours []string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		kind := slices.Contains([]string{".pid", ".log"}, filepath.Ext(e.Name()))
		if kind && !slices.ContainsFunc(ours, func(path string) bool { return filepath.Base(path) == e.Name() }) {
			return true
		}
	}
	return false
}
