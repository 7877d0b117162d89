package config

import (
	"errors"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// The values of this file set fields that several keys share, or whose key has a syntax of its own.

// maxDeviceNumber is the largest device number that the reference accepts.
const maxDeviceNumber = 65535

// deviceNumber returns the value for the major or minor number of a device, of 16 bits.
func deviceNumber(p *int) value {
	v := number(p, 0)
	v.fromTOML = tomlInteger(0, maxDeviceNumber)
	v.want = "a whole number from 0 to " + strconv.Itoa(maxDeviceNumber)
	return v
}

// setLocation sets where the state is stored, and with it the default of Lock.
//
// Compat: C-226: a directory is locked, but not a file or device.
func (s *State) setLocation(l nv.Location) {
	s.Location = l
	s.Lock = l.Kind != nv.File
}

// location returns the value for a state location of one kind.
func (s *State) location(kind nv.LocationKind) value {
	v := value{
		parse:    anyForm(func(path string) error { s.setLocation(nv.Location{Kind: kind, Path: path}); return nil }),
		fromTOML: tomlString,
		toTOML: func() (any, bool) {
			if s.Location.Kind != kind {
				return nil, false
			}
			return textOrNil(s.Location.Path), true
		},
		want: "the path of a directory", arg: "DIR", path: completion.Directory,
		rebase: func(dir string) {
			if s.Location.Kind == kind {
				s.Location.Path = beneath(dir, s.Location.Path)
			}
		},
	}
	if kind == nv.Cluster {
		v.want, v.arg, v.path, v.rebase = "the name of a state", "NAME", 0, nil
	}
	if kind == nv.File {
		v.want, v.arg, v.path = "the path of a file or a block device", "FILE", completion.File
	}
	return v
}

// backendURI returns the value for the state location as a URI, for the command line.
//
// Compat: C-227: any scheme is accepted, and INIT fails.
func (s *State) backendURI() value {
	return value{
		parse:  anyForm(func(uri string) error { s.setLocation(nv.ParseLocation(uri)); return nil }),
		toTOML: func() (any, bool) { return nil, false },
		want:   "dir://PATH, file://PATH or store://NAME",
		arg:    "URI",
	}
}

// choose sets the source of k, and the defaults of that source.
func (k *Key) choose(s KeySource, path string, fd int) {
	*k = Key{Source: s, Path: path, FD: fd, Bits: 128}
	if s == KeyFile || s == KeyFD || s == KeyCredential {
		k.Hex = true
	} else {
		k.KDF = "pbkdf2"
	}
}

// path returns the value for a file that contains a key or a passphrase.
func (k *Key) path(source KeySource) value {
	v := text(&k.Path)
	v.parse = anyForm(func(s string) error { k.choose(source, s, -1); return nil })
	v.want, v.arg, v.path = "the path of a file", "FILE", completion.File
	v.rebase = func(dir string) {
		if k.Source == source {
			k.Path = beneath(dir, k.Path)
		}
	}
	return v.only(func() bool { return k.Source == source })
}

// fd returns the value for a descriptor from which a key or a passphrase is read; a negative one is
// none.
func (k *Key) fd(source KeySource) value {
	v := descriptor(&k.FD)
	v.parse = parsed(parseInt, func(fd int) {
		if fd >= 0 {
			k.choose(source, "", fd)
		}
	})
	return v.only(func() bool { return k.Source == source })
}

// only returns v restricted to its source: unless chosen returns true, it has nothing to show and
// names no descriptor.
func (v value) only(chosen func() bool) value {
	show, fd := v.toTOML, v.descriptor
	v.toTOML = func() (any, bool) {
		if !chosen() {
			return nil, false
		}
		return show()
	}
	if fd != nil {
		v.descriptor = func() (int, bool) {
			n, ok := fd()
			return n, ok && chosen()
		}
	}
	return v
}

// credential returns the value for a credential of systemd that contains a key. Its name must be a
// file name, as systemd requires.
func (k *Key) credential() value {
	v := text(&k.Name)
	v.parse = anyForm(func(s string) error {
		if err := checkInstance(s); err != nil || len(s) > 255 {
			return errors.New("not the name of a file")
		}
		k.choose(KeyCredential, "", -1)
		k.Name = s
		return nil
	})
	v.want = "the name of a systemd credential, without a slash"
	return v.only(func() bool { return k.Source == KeyCredential })
}

// text returns the value for an algorithm profile, named by its name, its JSON or its file.
func (a *AlgorithmProfile) text(source ProfileSource, want string) value {
	v := text(&a.Text)
	v.parse = anyForm(func(s string) error {
		a.Source, a.Text, a.FD = source, s, -1
		return nil
	})
	v.want = want
	switch source {
	case ProfileName:
		v.arg = "NAME"
	case ProfileText:
		v.arg = "JSON"
	}
	if source == ProfileFile {
		v.arg, v.path = "FILE", completion.File
		v.rebase = func(dir string) {
			if a.Source == ProfileFile {
				a.Text = beneath(dir, a.Text)
			}
		}
	}
	return v.only(func() bool { return a.Source == source })
}

// fd returns the value for a descriptor from which an algorithm profile is read; a negative one is
// none.
func (a *AlgorithmProfile) fd() value {
	v := descriptor(&a.FD)
	v.parse = parsed(parseInt, func(fd int) {
		if fd >= 0 {
			a.Source, a.Text, a.FD = ProfileFD, "", fd
		}
	})
	return v.only(func() bool { return a.Source == ProfileFD })
}

// start sets Startup, and NotNeedInit if that follows from it.
func (f *Flags) start(s Startup) {
	f.Startup = s
	if s != StartupNone {
		f.NotNeedInit = true
	}
}

// startupFlag returns the value for one of the flags startup-….
func (f *Flags) startupFlag(s Startup) value {
	var on bool
	v := truth(&on).then(func() {
		if on {
			f.start(s)
		}
	})
	v.toTOML = func() (any, bool) { return nil, false }
	return v
}

// startup returns the value for the key startup of a profile.
func (f *Flags) startup() value {
	v := choice(&f.Startup, "", words(StartupClear, StartupState, StartupDeactivated, StartupNone))
	return v.then(func() { f.start(f.Startup) }).unset(string(StartupNone))
}
