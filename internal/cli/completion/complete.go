// Package completion writes the completion scripts of a program for bash, zsh and
// fish. The caller describes the command line of its program.
package completion

import (
	"fmt"
	"strings"
)

// Program is a command line. It is installed under its names; the first one is part of
// the names of the script's functions.
type Program struct {
	Names []string
	Command

	// OneDash is true if each long name may be written with one dash as well.
	OneDash bool

	// ProfileDirs are the directories whose files *ProfileSuffix are profiles.
	ProfileDirs   []string
	ProfileSuffix string
}

// Command is a word of a command line and what may follow it.
type Command struct {
	Name     string
	Help     string
	Options  []Option
	Commands []Command
	Operand  Value
}

// Option is an option; Args are its arguments, none or more.
type Option struct {
	Names []string // with their dashes
	Help  string
	Args  []Value
}

// Value is what an argument, an operand or a value of a list may be.
type Value struct {
	Kind  Kind
	Words []string // of Words
	List  []Item   // of List
}

// Item is a name of a list: NAME if it is a switch, otherwise NAME=VALUE.
type Item struct {
	Name   string
	Switch bool
	Value  Value
}

// Kind says how a value is completed.
type Kind uint8

const (
	Text      Kind = iota // not at all
	Words                 // one of a few words
	File                  // a file
	Directory             // a directory
	User                  // a user's name
	Profile               // the name of a profile, or a file
	List                  // NAME, NAME=VALUE, with commas between them
)

// Shells are the shells with a completion script.
var Shells = []string{"bash", "zsh", "fish"}

// Script returns the script for a shell, or an error that lists the supported shells.
func Script(p *Program, shell string) (string, error) {
	switch shell {
	case "bash":
		return bash(p), nil
	case "zsh":
		return zsh(p), nil
	case "fish":
		return fish(p), nil
	}
	return "", fmt.Errorf("unknown shell %q; want %s", shell, strings.Join(Shells, ", "))
}

// ValueOf returns the Value that a help text calls name: PROFILE, FILE, DIR, USER
// or words with bars between them, as in "bash|zsh|fish". Anything else is text.
func ValueOf(name string) Value {
	switch strings.Trim(name, "<>") {
	case "FILE", "file", "path", "device":
		return Value{Kind: File}
	case "DIR", "dir":
		return Value{Kind: Directory}
	case "USER":
		return Value{Kind: User}
	case "PROFILE":
		return Value{Kind: Profile}
	}
	if strings.Contains(name, "|") {
		return Value{Kind: Words, Words: strings.Split(name, "|")}
	}
	return Value{}
}

// ident returns the program's name as a part of a shell's identifier.
func (p *Program) ident() string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(p.Names[0])
}

// mixed reports whether the command takes either one of its commands or operands.
func (c *Command) mixed() bool { return len(c.Commands) > 0 && c.Operand.Kind != Text }

// walk calls f for each command with the words that lead to it, "/run" for
// "swtpm run" and "" for the program itself.
func (p *Program) walk(f func(path string, c *Command)) {
	var down func(path string, c *Command)
	down = func(path string, c *Command) {
		f(path, c)
		for i := range c.Commands {
			down(path+"/"+c.Commands[i].Name, &c.Commands[i])
		}
	}
	down("", &p.Command)
}

// spellings returns all forms of the option.
func (p *Program) spellings(o Option) []string {
	all := append([]string(nil), o.Names...)
	if p.OneDash {
		for _, n := range o.Names {
			if two, ok := strings.CutPrefix(n, "--"); ok {
				all = append(all, "-"+two)
			} else {
				all = append(all, "-"+n)
			}
		}
	}
	return all
}

// quote quotes s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// quoteAll quotes all words.
func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}
