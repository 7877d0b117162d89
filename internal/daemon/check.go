package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// CheckLog returns the error that OpenLog(o) would return. It changes nothing.
func CheckLog(o LogOptions) error {
	if !o.Given {
		return nil
	}
	if o.File != "" && o.File != "-" {
		if err := checkOutput(o.File, false); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	if o.FD >= 0 {
		return checkWritable(o.FD)
	}
	return nil
}

// CheckPID returns the error that WritePID(file, fd) would return, except for a full disk.
// It changes nothing.
func CheckPID(file string, fd int) error {
	if file != "" {
		if err := checkOutput(file, true); err != nil {
			return fmt.Errorf("pid file: %w", err)
		}
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("pid file: fd %d: %w", fd, err)
	}
	err := checkWritable(fd)
	if err == nil {
		err = safefile.CheckOutput(&st, true)
	}
	if err != nil {
		return fmt.Errorf("pid file: fd %d: %w", fd, err)
	}
	return nil
}

// CheckFile returns the error with which this program would fail to open the regular file at
// path for writing, or to create it: links and files with several names are refused. It
// changes nothing.
func CheckFile(path string) error { return checkOutput(path, true) }

// checkOutput checks a file that would be opened for writing, or created if it is missing. An
// existing file is never opened, because the reader of a FIFO would notice.
func checkOutput(path string, regular bool) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT {
		dir := filepath.Dir(path)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("open %s: directory %q: %w", path, dir, err)
		}
		return nil
	}
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			return fmt.Errorf("open %s: symbolic link; name the file itself", path)
		case unix.S_IFDIR:
			err = unix.EISDIR
		case unix.S_IFSOCK:
			err = unix.ENXIO
		default:
			err = unix.Access(path, unix.W_OK)
		}
	}
	if err == nil && sticky(path, &st) {
		err = unix.EACCES
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if err := safefile.CheckOutput(&st, regular); err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return nil
}

// sticky reports whether the kernel refuses to open a regular file with O_CREAT because
// another user created it in a sticky directory that others can write to. The kernel
// refuses that to root, too.
//
// Source: Linux, Documentation/admin-guide/sysctl/fs.rst, protected_regular.
func sticky(path string, st *unix.Stat_t) bool {
	var dir unix.Stat_t
	if st.Mode&unix.S_IFMT != unix.S_IFREG || unix.Stat(filepath.Dir(path), &dir) != nil || dir.Mode&unix.S_ISVTX == 0 ||
		st.Uid == dir.Uid || st.Uid == uint32(os.Geteuid()) {
		return false
	}
	b, _ := os.ReadFile("/proc/sys/fs/protected_regular")
	level, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return protects(level, dir.Mode)
}

// protects reports whether level, a value of protected_regular, applies to a sticky
// directory of this mode.
func protects(level int, mode uint32) bool {
	return level >= 1 && mode&0o002 != 0 || level >= 2 && mode&0o020 != 0
}
