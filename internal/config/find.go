package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// suffix is the suffix of a profile's name.
const suffix = ".toml"

// systemDirs are the directories of profiles, in the order of the search.
var systemDirs = []string{"/etc/swtpm", "/run/swtpm", "/usr/local/lib/swtpm", "/usr/lib/swtpm"}

// ProfileDirs returns the directories that are searched for profiles of all users, and
// the suffix of their names.
func ProfileDirs() (dirs []string, ext string) { return systemDirs, suffix }

// OwnProfileDirs returns the directories that are searched for profiles of the calling user
// alone.
func OwnProfileDirs() []string {
	dirs := profileDirs(os.Geteuid(), os.Getenv)
	return dirs[:len(dirs)-len(systemDirs)]
}

// exampleDirs are the directories in which make install and the package put examples.
var exampleDirs = []string{"/usr/local/share/doc/swtpm-go/examples", "/usr/share/doc/swtpm-go/examples"}

// FindProfile returns the path of the file that PROFILE on a command line means, and the
// instance. A name with a slash, or that ends in .toml, is a path; its instance
// is the name of the file without .toml. Any other name is the name of a
// profile in one of the directories below, or, if it is in none, an instance of
// default.toml there:
//
//	$XDG_CONFIG_HOME/swtpm, or ~/.config/swtpm    except for root
//	/etc/swtpm, /run/swtpm, /usr/local/lib/swtpm, /usr/lib/swtpm
func FindProfile(name string) (file, instance string, err error) {
	return findProfile(name, profileDirs(os.Geteuid(), os.Getenv))
}

// profileDirs returns the directories that are searched for uid.
func profileDirs(uid int, env func(string) string) []string {
	if uid == 0 {
		return systemDirs
	}
	own := env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(own) { // the XDG specification ignores a relative one
		own = ""
		if home := env("HOME"); filepath.IsAbs(home) {
			own = filepath.Join(home, ".config")
		}
	}
	if own == "" {
		return systemDirs
	}
	return append([]string{filepath.Join(own, "swtpm")}, systemDirs...)
}

func findProfile(name string, dirs []string) (file, instance string, err error) {
	if strings.Contains(name, "/") || strings.HasSuffix(name, suffix) {
		instance = strings.TrimSuffix(filepath.Base(name), suffix)
		return name, instance, checkInstance(instance)
	}
	if err := checkInstance(name); err != nil {
		return "", "", err
	}
	for _, base := range []string{name, "default"} {
		for _, dir := range dirs {
			file := filepath.Join(dir, base+suffix)
			_, err := os.Stat(file)
			switch {
			case err == nil:
				return file, name, nil
			case !errors.Is(err, fs.ErrNotExist):
				return "", "", fmt.Errorf("profile %q: %w", name, err)
			}
		}
	}
	return "", "", fmt.Errorf("profile %q: neither %s%s nor default%s in %s; copy %s to %s", name, name, suffix, suffix, strings.Join(dirs, ", "),
		example("vm1"+suffix, exampleDirs), filepath.Join(dirs[0], name+suffix))
}

// example returns the path of the example called name, or a description if none is installed.
func example(name string, dirs []string) string {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "examples/" + name + " of the documentation"
}

// checkInstance refuses a name that would lead out of a directory.
func checkInstance(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("invalid instance name %q: write a name without a slash", name)
	}
	return nil
}
