package guest_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// archived is a file of an initial file system.
type archived struct {
	name string // without a slash at the beginning
	mode int    // as in stat(2)
	body []byte // of a symbolic link, its target
}

// archive returns an initramfs, a cpio archive: for each file the magic number 070701 and 13
// numbers of 8 hex digits (inode, mode, uid, gid, links, time, size, 4 device numbers, length of
// the name, checksum), the name, the bytes, each padded to 4 bytes.
//
// Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
func archive(files []archived) []byte {
	var b bytes.Buffer
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	for i, f := range slices.Concat([]archived{
		{"dev", 0o040755, nil},
		{"dev/console", 0o020600, nil}, // 5, 1; what init says before it has a terminal
	}, files, []archived{{"TRAILER!!!", 0, nil}}) {
		major, minor := 0, 0
		if f.mode == 0o020600 {
			major, minor = 5, 1
		}
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i+1, f.mode, 0, 0, 1, 0, len(f.body), 0, 0, major, minor, len(f.name)+1, 0, f.name)
		pad()
		b.Write(f.body)
		pad()
	}
	return b.Bytes()
}

// compressed returns b compressed: the firmware hashes an initial file system three times.
func compressed(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// library matches the path of a library in ldd's output.
var library = regexp.MustCompile(`(/\S+) \(0x`)

// programs returns the machine's programs and libraries, with all libraries that they need. Those
// that they load at run time are named, too.
func programs(t *testing.T, paths ...string) []archived {
	t.Helper()
	all := []archived{
		{"usr", 0o040755, nil}, {"bin", 0o120777, []byte("usr/bin")}, {"sbin", 0o120777, []byte("usr/bin")},
		{"lib", 0o120777, []byte("usr/lib")}, {"lib64", 0o120777, []byte("usr/lib64")}, {"usr/sbin", 0o120777, []byte("bin")},
	}
	for i := 0; i < len(paths); i++ {
		text, err := exec.Command("ldd", paths[i]).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", paths[i], err)
		}
		for _, m := range library.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(paths, m[1]) {
				paths = append(paths, m[1])
			}
		}
	}
	seen := map[string]bool{"usr": true}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path, "/")
		if !strings.HasPrefix(name, "usr/") {
			name = "usr/" + name
		}
		name = strings.Replace(name, "usr/sbin/", "usr/bin/", 1)
		if seen[name] {
			continue
		}
		seen[name] = true
		for _, dir := range parents(name) {
			if !seen[dir] {
				seen[dir] = true
				all = append(all, archived{dir, 0o040755, nil})
			}
		}
		all = append(all, archived{name, 0o100755, b})
	}
	return all
}

// parents returns the directories above a file, the outermost first.
func parents(name string) (all []string) {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		all = append([]string{dir}, all...)
	}
	return all
}
