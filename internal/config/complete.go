package config

import "strings"

// Option is an option of the classic command line as a person types it, for the
// completion of shells.
type Option struct {
	Names []string    // with their dashes, the long one first
	Arg   string      // what the help calls its argument; "" if it takes none
	Sub   []Suboption // what the argument is a list of; nil if it is none
}

// Suboption is one of the names that an option's argument is a list of.
type Suboption struct {
	Name   string
	Switch bool     // stands for itself, without "="
	Words  []string // what its value may be; nil for anything
	Path   PathKind // whether its value is a path
}

// PathKind says what a path leads to.
type PathKind uint8

const (
	NoPath    PathKind = iota // not a path
	File                      // a file
	Directory                 // a directory
)

// Interfaces are the words that a classic command line may begin with.
var Interfaces = []string{"socket", "chardev", "cuse"}

// Options returns the options of an interface. Their
// sub-options are those that the parser looks for.
func Options(iface string) []Option {
	tables := subTables()
	var out []Option
	for _, row := range optionsOf[iface] {
		o := Option{Names: []string{"--" + row.long}}
		if row.arg {
			o.Arg = argName(iface, row.long)
		}
		if row.short != 0 {
			o.Names = append(o.Names, "-"+string(rune(row.short)))
		}
		for _, k := range tables[row.long] {
			o.Sub = append(o.Sub, k.suboption())
		}
		out = append(out, o)
	}
	return out
}

// argName returns the word that follows an option in the help.
func argName(iface, long string) string {
	_, after, _ := strings.Cut(Usage(iface), "--"+long+" ")
	if words := strings.Fields(after); len(words) > 0 {
		return words[0]
	}
	return "ARGUMENT"
}

// subTables returns the sub-options of each option that has some: it has the
// parser read a command line without options and keeps what it would look for.
func subTables() map[string]keys {
	tables := map[string]keys{}
	l := line{cfg: defaults(), given: map[string]string{}, fd: -1, env: func(string) string { return "" }}
	l.seen = func(name string, ks keys) { tables[name] = ks.known(option) }
	_ = l.finish(nil) // nothing is given that could be wrong
	return tables
}

// suboption describes k.
func (k *key) suboption() Suboption {
	s := Suboption{Name: k.name, Switch: k.value.isSwitch, Path: k.value.path}
	if !s.Switch {
		s.Words = quoted(k.value.want)
	}
	return s
}

// ProfileDirs returns the directories in which every user's profiles are looked
// for, and the suffix of their names.
func ProfileDirs() (dirs []string, ext string) { return systemDirs, suffix }
