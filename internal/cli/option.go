// Package cli contains the parts that the command lines of all programs share: options
// as getopt_long of the GNU C library reads them, their help and completion, the target
// that the client tools connect to, complaints in the
// words of the reference, and its configuration files.
package cli

import (
	"errors"

	"github.com/swtpm-go/swtpm/internal/cli/completion"
)

// Option is one option of a command line. Its parsing, help and completion come from
// here.
type Option struct {
	Name  string // the long name, without dashes
	Short string // its letters, each of which means the same
	Arg   string // the argument in the help; "" if it takes none
	File  string // the word after the argument, a file name, in the help; "" without
	Help  string
	Long  bool // two dashes in the help, however short the name is

	// Modes are letters of the modes of the program that have the option; "" for all. See Getopt.Mode.
	Modes string

	// Section is the heading in Help that the option is listed under.
	Section string

	// Optional means that the argument may be missing.
	Optional bool

	// Words are the values of the argument, if it is one of a few.
	Words []string

	// Sub returns the names that the argument is a list of; nil if it is no list.
	Sub func() []Suboption

	// Hidden options are neither in the help nor completed. Own options are not the
	// reference's: an abbreviation never means them if it could mean one of the
	// reference's.
	Hidden, Own bool

	// Set takes the argument and the file name, "" for none. If it returns ErrStop,
	// the rest of the command line is not parsed. Without it, Getopt.Set takes the argument.
	Set func(arg, file string) error
}

// Suboption is one name of an option's list: NAME, or NAME=VALUE.
type Suboption struct {
	Name  string
	Arg   string // the value in the help; "" for a switch
	Help  string
	Value completion.Value
}

// ErrStop ends the parsing of a command line without being an error.
var ErrStop = errors.New("the rest is not parsed")

// spelling returns the usual form of the option: names of one or two letters have one
// dash, unless it is Long.
func (o Option) spelling() string {
	if len(o.Name) <= 2 && !o.Long {
		return "-" + o.Name
	}
	return "--" + o.Name
}
