package config

import (
	"errors"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// The values of this file fill fields that two keys share, or that a key spells
// in its own way.

// prefix is text that may be empty.
type prefix struct{ p *string }

func (prefix) check(string) error            { return nil }
func (t prefix) set(s string) error          { *t.p = s; return nil }
func (prefix) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (t prefix) toTOML() (any, bool)         { return *t.p, true }
func (prefix) want() string                  { return "a string" }

// interfaceType is the kind of the data channel, which other fields follow.
type interfaceType struct {
	words
	c *Config
}

func (t interfaceType) set(s string) error {
	if err := t.words.set(s); err != nil {
		return err
	}
	t.c.choose(s)
	return nil
}

// devNumber is a number of a device, of 16 bits.
type devNumber struct{ p *int }

func (devNumber) check(string) error { return nil }

func (n devNumber) set(s string) (err error) {
	*n.p, err = strconv.Atoi(s)
	return err
}

func (devNumber) fromTOML(v any) (string, bool) {
	i, ok := v.(int64)
	s, _ := integer(v)
	return s, ok && i >= 0 && i <= maxDevNumber
}
func (n devNumber) toTOML() (any, bool) { return *n.p, true }
func (devNumber) want() string          { return "a whole number from 0 to 65535" }

// maxDevNumber is the largest number of a device that swtpm takes.
const maxDevNumber = 65535

// at is where the state is kept. It also says what lock is unless that is asked
// for.
//
// Compat: swtpm 0.10 and later lock a directory, but not a file or device.
func (s *State) at(l nv.Location) {
	s.Location = l
	s.Lock = l.Kind != nv.File
}

// statePath is the path of a location of one kind.
type statePath struct {
	s    *State
	kind nv.LocationKind
}

func (statePath) check(string) error            { return nil }
func (p statePath) set(path string) error       { p.s.at(nv.Location{Kind: p.kind, Path: path}); return nil }
func (statePath) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok && s != "" }

func (p statePath) want() string {
	if p.kind == nv.Directory {
		return "the path of a directory"
	}
	return "the path of a file or a block device"
}

func (p statePath) toTOML() (any, bool) {
	if p.s.Location.Kind != p.kind {
		return nil, false
	}
	return textOrNil(p.s.Location.Path), true
}

// backendURI is the state's URI as the command line gives it.
type backendURI struct{ s *State }

func (backendURI) check(string) error { return nil }

// set takes any scheme.
//
// Compat: swtpm finds out when the TPM is powered on that it has no such
// backend, and answers TPM_FAIL.
func (b backendURI) set(s string) error {
	b.s.at(nv.ParseLocation(s))
	return nil
}
func (backendURI) fromTOML(any) (string, bool) { return "", false }
func (backendURI) toTOML() (any, bool)         { return nil, false }
func (backendURI) want() string                { return "dir://PATH or file://PATH" }

// durability is "full" or "relaxed".
type durability struct{ relaxed *bool }

func (durability) check(string) error { return nil }

func (d durability) set(s string) error {
	var word string
	if err := (words{p: &word, of: []string{"full", "relaxed"}, unknown: "Unknown durability '%s'."}).set(s); err != nil {
		return err
	}
	*d.relaxed = word == "relaxed"
	return nil
}
func (durability) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (durability) want() string                  { return `"full" or "relaxed"` }

func (d durability) toTOML() (any, bool) {
	if *d.relaxed {
		return "relaxed", true
	}
	return "full", true
}

// source makes k a key from s, with the defaults of that source.
func (k *Key) source(s KeySource, path string, fd int) {
	*k = Key{Source: s, Path: path, FD: fd, Bits: 128}
	if s == KeyFile || s == KeyFD || s == KeyCredential {
		k.Hex = true
	} else {
		k.KDF = "pbkdf2"
	}
}

// keyPath is a file with a key or a passphrase.
type keyPath struct {
	k      *Key
	source KeySource
}

func (keyPath) check(string) error            { return nil }
func (p keyPath) set(s string) error          { p.k.source(p.source, s, -1); return nil }
func (keyPath) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok && s != "" }
func (keyPath) want() string                  { return "the path of a file" }

func (p keyPath) toTOML() (any, bool) {
	if p.k.Source != p.source {
		return nil, false
	}
	return textOrNil(p.k.Path), true
}

// keyFD is a descriptor with a key or a passphrase; a negative one is none.
type keyFD struct {
	k      *Key
	source KeySource
}

func (keyFD) check(s string) error {
	_, err := parseInt(s)
	return err
}

func (f keyFD) set(s string) error {
	fd, err := parseInt(s)
	if err == nil && fd >= 0 {
		f.k.source(f.source, "", fd)
	}
	return err
}
func (keyFD) fromTOML(v any) (string, bool) { return number{}.fromTOML(v) }
func (keyFD) want() string                  { return number{}.want() }

func (f keyFD) toTOML() (any, bool) {
	if f.k.Source != f.source {
		return nil, false
	}
	return f.k.FD, true
}

// keyCredential is a credential of systemd's that is a key.
type keyCredential struct{ k *Key }

func (keyCredential) check(string) error { return nil }

// set takes what systemd takes for the name of a credential, that is, of a file.
func (c keyCredential) set(s string) error {
	if err := checkInstance(s); err != nil || len(s) > 255 {
		return errors.New("not the name of a file")
	}
	c.k.source(KeyCredential, "", -1)
	c.k.Name = s
	return nil
}
func (keyCredential) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok && s != "" }
func (keyCredential) want() string                  { return "the name of a systemd credential, without a slash" }

func (c keyCredential) toTOML() (any, bool) {
	if c.k.Source != KeyCredential {
		return nil, false
	}
	return textOrNil(c.k.Name), true
}

// keyFormat is "hex" or "binary".
type keyFormat struct{ k *Key }

func (keyFormat) check(string) error { return nil }

func (f keyFormat) set(s string) error {
	var word string
	if err := (words{p: &word, of: []string{"hex", "binary"}, unknown: "Unknown key format '%s'."}).set(s); err != nil {
		return err
	}
	f.k.Hex = word == "hex"
	return nil
}
func (keyFormat) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (keyFormat) want() string                  { return `"hex" or "binary"` }

func (f keyFormat) toTOML() (any, bool) {
	if f.k.Hex {
		return "hex", true
	}
	return "binary", true
}

// keyMode is the cipher, whose key size is all that varies.
type keyMode struct{ k *Key }

func (keyMode) check(string) error { return nil }

func (m keyMode) set(s string) error {
	switch s {
	case "aes-cbc", "aes-128-cbc":
		m.k.Bits = 128
	case "aes-256-cbc":
		m.k.Bits = 256
	default:
		return refuse("Unknown encryption mode '%s'.", s)
	}
	return nil
}
func (keyMode) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (keyMode) want() string                  { return `"aes-128-cbc" (or "aes-cbc") or "aes-256-cbc"` }
func (m keyMode) toTOML() (any, bool)         { return "aes-" + strconv.Itoa(m.k.Bits) + "-cbc", true }

// algorithmsText is a profile by its name, its text or its file.
type algorithmsText struct {
	a      *AlgorithmProfile
	source ProfileSource
	what   string
}

func (algorithmsText) check(string) error { return nil }

func (t algorithmsText) set(s string) error {
	t.a.Source, t.a.Text, t.a.FD = t.source, s, -1
	return nil
}
func (algorithmsText) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok && s != "" }
func (t algorithmsText) want() string                { return t.what }

func (t algorithmsText) toTOML() (any, bool) {
	if t.a.Source != t.source {
		return nil, false
	}
	return textOrNil(t.a.Text), true
}

// algorithmsFD is a descriptor with a profile; a negative one is none.
type algorithmsFD struct{ a *AlgorithmProfile }

func (algorithmsFD) check(s string) error {
	_, err := parseInt(s)
	return err
}

func (f algorithmsFD) set(s string) error {
	fd, err := parseInt(s)
	if err == nil && fd >= 0 {
		f.a.Source, f.a.Text, f.a.FD = ProfileFD, "", fd
	}
	return err
}
func (algorithmsFD) fromTOML(v any) (string, bool) { return number{}.fromTOML(v) }
func (algorithmsFD) want() string                  { return number{}.want() }

func (f algorithmsFD) toTOML() (any, bool) {
	if f.a.Source != ProfileFD {
		return nil, false
	}
	return f.a.FD, true
}

// start fills Startup, and NotNeedInit if it follows from it.
func (f *Flags) start(word string) {
	f.Startup = word
	if word != "none" {
		f.NotNeedInit = true
	}
}

// startupFlag is one of the flags startup-….
type startupFlag struct {
	f    *Flags
	word string
}

func (startupFlag) check(string) error { return nil }

func (s startupFlag) set(text string) error {
	var on bool
	err := truth{p: &on}.set(text)
	if on {
		s.f.start(s.word)
	}
	return err
}
func (startupFlag) fromTOML(any) (string, bool) { return "", false }
func (startupFlag) toTOML() (any, bool)         { return nil, false }
func (startupFlag) want() string                { return "nothing" }

// startupWord is the same in a profile.
type startupWord struct{ f *Flags }

func (s startupWord) words() words {
	return words{p: &s.f.Startup, of: []string{"clear", "state", "deactivated", "none"}, empty: "none"}
}

func (startupWord) check(string) error { return nil }

func (s startupWord) set(text string) error {
	if err := s.words().set(text); err != nil {
		return err
	}
	s.f.start(text)
	return nil
}
func (s startupWord) fromTOML(v any) (string, bool) { return s.words().fromTOML(v) }
func (s startupWord) toTOML() (any, bool)           { return s.words().toTOML() }
func (s startupWord) want() string                  { return s.words().want() }
