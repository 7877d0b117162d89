package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Free space that a store needs in addition to the old state, in bytes, and the limit for a
// warning.
const (
	minFree = 16 << 10
	lowFree = 1 << 20
)

// checkRoom adds a finding with severity s if the file system of dir has fewer than need bytes
// for this user. Quotas are not checked.
func (x *examination) checkRoom(dir string, need int64, s Severity) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return
	}
	free := st.Bavail
	if x.uid == 0 {
		free = max(free, forRoot(dir, &st))
	}
	room := int64(min(free, 1<<40)) * int64(st.Bsize) // Bsize is 32 bits on some architectures
	was := x.check
	x.check = "space"
	defer func() { x.check = was }()
	switch {
	case room < need:
		x.add(s, dir, "free some space", "the file system is full: %d bytes are free, storing the state needs %d", room, need)
	case st.Files > 0 && st.Ffree == 0:
		x.add(s, dir, "remove files", "the file system has no free inode for a new file")
	case room < lowFree:
		x.add(Warning, dir, "free some space", "the file system is nearly full: %d bytes are free", room)
	}
}

// forRoot returns the number of blocks that root may fill in the file system of dir, 0 if that is
// unknown. ext4 lets root use the blocks that mkfs reserved (-m), also without capabilities, but not
// those that the kernel reserves for itself. Both are free and not available.
//
// Source: Linux, fs/ext4/balloc.c, ext4_has_free_clusters; Documentation/ABI/testing/sysfs-fs-ext4.
func forRoot(dir string, fs *unix.Statfs_t) uint64 {
	var st unix.Stat_t
	if fs.Type != unix.EXT4_SUPER_MAGIC || unix.Stat(dir, &st) != nil || !initialRoot() {
		return 0
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return 0
	}
	kernels, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "reserved_clusters"))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(kernels)), 10, 64)
	if err != nil || n > fs.Bfree {
		return 0
	}
	return fs.Bfree - n
}

// initialRoot reports whether user 0 of this process is root of the host, and not of a container
// with a user namespace, which may use no reserved blocks.
func initialRoot() bool {
	b, _ := os.ReadFile("/proc/self/uid_map")
	words := strings.Fields(string(b))
	return len(words) > 1 && words[0] == "0" && words[1] == "0"
}
