package fleet

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loadedFile compares a file that a process uses with the installed one.
type loadedFile struct {
	Loaded    string `json:"loaded,omitempty"`    // path; missing if the kernel does not show it
	Installed string `json:"installed,omitempty"` // path; missing if it was removed
	Replaced  *bool  `json:"replaced,omitempty"`  // whether they are different files
}

// mapping is a library that a process has mapped.
type mapping struct {
	path    string
	inode   uint64
	deleted bool
}

// libraries are the libraries that are compared.
var libraries = []string{"libtpms.so", "libcrypto.so"}

// mappings returns the libraries that a process has mapped, each once.
func (s *snapshot) mappings(pid int) (found []mapping, err error) {
	b, err := readLimited(s.of(pid, "maps"))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		// address permissions offset device inode path
		words := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 6)
		if len(words) < 6 {
			continue
		}
		path, deleted := strings.CutSuffix(strings.TrimLeft(words[5], " "), " (deleted)")
		if !isLibrary(path) || seen[path] {
			continue
		}
		seen[path] = true
		inode, _ := strconv.ParseUint(words[4], 10, 64)
		found = append(found, mapping{path, inode, deleted})
	}
	return found, nil
}

func isLibrary(path string) bool {
	for _, l := range libraries {
		if strings.HasPrefix(filepath.Base(path), l) {
			return true
		}
	}
	return false
}

// files are the installed files that were looked up, by path.
type files map[string]*file

// file is an installed file.
type file struct {
	path    string // with symbolic links resolved; "" if it is missing
	inode   uint64
	changed time.Time // when it was installed
}

// lookup returns the file that is at the path now. It looks up each path once per collection,
// because many TPMs use the same library.
func (s *snapshot) lookup(path string) *file {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.installed[path]; ok {
		return f
	}
	f := &file{}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		var st unix.Stat_t
		if unix.Stat(real, &st) == nil {
			*f = file{real, st.Ino, time.Unix(st.Ctim.Unix())}
		}
	}
	s.installed[path] = f
	return f
}

// soname returns the name by which programs find a library: libtpms.so.0 for
// libtpms.so.0.9.2.
func soname(path string) string {
	dir, base := filepath.Split(path)
	name, version, ok := strings.Cut(base, ".so.")
	if !ok {
		return path
	}
	major, _, _ := strings.Cut(version, ".")
	return filepath.Join(dir, name+".so."+major)
}

// compare compares the mapped library with the installed one. The inode decides, because a
// mapped file keeps its inode; the device numbers of proc and stat differ on overlayfs and
// btrfs.
func (s *snapshot) compare(m mapping) *loadedFile {
	now := s.lookup(soname(m.path))
	if now.path == "" {
		now = s.lookup(m.path)
	}
	replaced := m.deleted || now.inode != m.inode
	return &loadedFile{Loaded: m.path, Installed: now.path, Replaced: &replaced}
}

// candidates returns the installed files of a library, for a process whose mappings
// are not shown.
func (s *snapshot) candidates(name string) []string {
	found, _ := filepath.Glob("/usr/lib/*/" + name + ".*")
	more, _ := filepath.Glob("/usr/lib*/" + name + ".*")
	return append(found, more...)
}

// guess compares the time of installation with the start of the process, for a process whose
// libraries the kernel does not show: it cannot have loaded a library that was installed later.
func (s *snapshot) guess(p *process, name string) *loadedFile {
	for _, path := range s.candidates(name) {
		now := s.lookup(soname(path))
		if now.path != "" && !p.started.IsZero() {
			return p.byTime(now)
		}
	}
	return nil
}

// guessProgram does the same as guess for the program, whose path is the first argument.
func (s *snapshot) guessProgram(p *process) *loadedFile {
	if len(p.args) == 0 || !filepath.IsAbs(p.args[0]) || p.started.IsZero() {
		return nil
	}
	now := s.lookup(p.args[0])
	if now.path == "" {
		return nil
	}
	return p.byTime(now)
}

// byTime compares the time of an installed file with the start of a process. For a process of an
// ordinary user, who can run other programs and libraries, an older file means nothing.
func (p *process) byTime(now *file) *loadedFile {
	replaced := now.changed.After(p.started)
	if !replaced && p.uid >= firstUser {
		return &loadedFile{Installed: now.path}
	}
	return &loadedFile{Installed: now.path, Replaced: &replaced}
}

// compareLibraries sets Libtpms, Libcrypto and Program of a TPM.
func (s *snapshot) compareLibraries(t *TPM, p *process) {
	byName := map[string]*loadedFile{}
	for _, m := range p.mapped {
		for _, name := range libraries {
			if strings.HasPrefix(filepath.Base(m.path), name) {
				byName[name] = s.compare(m)
			}
		}
	}
	if p.mapsErr != nil {
		for _, name := range libraries {
			if l := s.guess(p, name); l != nil {
				byName[name] = l
			}
		}
	}
	t.Libtpms, t.Libcrypto = byName["libtpms.so"], byName["libcrypto.so"]
	if p.exe != "" {
		t.Program = &loadedFile{Loaded: p.exe, Installed: s.lookup(p.exe).path, Replaced: &p.deleted}
		return
	}
	t.Program = s.guessProgram(p)
}

// judge decides whether a restart is needed. It is not needed only if the process is known to use
// the installed program and the installed libtpms.
func (t *TPM) judge() {
	t.Restart = RestartNotNeeded
	var unknown []string
	for _, l := range []struct {
		name string
		*loadedFile
	}{{"libtpms", t.Libtpms}, {"libcrypto", t.Libcrypto}, {"swtpm", t.Program}} {
		switch {
		case l.loadedFile == nil && l.name == "libcrypto": // not every libtpms uses it
		case l.loadedFile == nil || l.Replaced == nil:
			unknown = append(unknown, l.name)
		case *l.Replaced:
			t.Restart = RestartNeeded
			t.Reasons = append(t.Reasons, l.name+" was replaced")
		}
	}
	if t.Restart == RestartNotNeeded && len(unknown) > 0 {
		t.Restart = RestartUnknown
		t.Reasons = append(t.Reasons, "no right to see which "+strings.Join(unknown, ", ")+" the process uses")
	}
}

// summary returns the version of the loaded library from its file name, and the installed version
// if that differs.
func (l *loadedFile) summary() string {
	if l == nil {
		return "?"
	}
	loaded, installed := versionOf(l.Loaded), versionOf(l.Installed)
	switch {
	case l.Replaced == nil && loaded == "":
		return "?"
	case l.Replaced == nil:
		return loaded
	case !*l.Replaced && l.Loaded == "":
		return installed
	case !*l.Replaced:
		return loaded
	case l.Installed == "":
		return loaded + " (removed)"
	case loaded == installed || l.Loaded == "":
		return installed + " (replaced)"
	}
	return loaded + " (installed: " + installed + ")"
}

// versionOf returns the version in the name of a library.
func versionOf(path string) string {
	_, version, _ := strings.Cut(filepath.Base(path), ".so.")
	return version
}

// readLimited returns the first megabyte of a file that cannot be a FIFO without a writer.
func readLimited(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxProcFile))
}
