package completion

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// engineBash are the functions that use the tables of a bash script.
//
//go:embed engine.bash
var engineBash string

// bash returns a script that needs bash 4.4 and no other package. It is one
// function per table, each a case over the words that lead there, and the engine.
func bash(p *Program) string {
	name := "_" + p.ident()
	t := bashTables{p: p}
	p.walk(t.add)
	var s strings.Builder
	fmt.Fprintf(&s, "# bash completion for %s\n", strings.Join(p.Names, ", "))
	table := func(suffix, what string, rows []string) {
		fmt.Fprintf(&s, "\n# %s\n%s%s() {\n\tcase $1 in\n%s\t*) return 1 ;;\n\tesac\n}\n", what, name, suffix, strings.Join(rows, ""))
	}
	table("_is_command", "Whether the last of the words is a command.", t.isCommand)
	table("_commands", "The commands after the words.", t.commands)
	table("_options", "The options after the words.", t.options)
	table("_operand", "The kind of operand after the words.", t.operand)
	table("_args", "The kinds of an option's arguments, each in a line.", t.args)
	table("_names", "The names in an option's list.", t.names)
	table("_value", "The kind of a name's value in an option's list.", t.value)
	s.WriteString(strings.NewReplacer("NAME", name, "PROFILEDIRS", quoteAll(p.ProfileDirs), "PROFILESUFFIX", p.ProfileSuffix).Replace(engineBash))
	fmt.Fprintf(&s, "\ncomplete -F %s %s\n", name, strings.Join(p.Names, " "))
	return s.String()
}

// bashTables are the rows of the functions.
type bashTables struct {
	p                                                         *Program
	isCommand, commands, options, operand, args, names, value []string
}

// add adds the rows of one command.
func (t *bashTables) add(path string, c *Command) {
	if path != "" {
		t.isCommand = append(t.isCommand, "\t"+quote(path)+") ;;\n")
	}
	var words []string
	for _, sub := range c.Commands {
		words = append(words, sub.Name)
	}
	t.commands = appendRow(t.commands, []string{path}, words...)
	words = nil
	for _, o := range c.Options {
		words = append(words, o.Names...)
	}
	t.options = appendRow(t.options, []string{path}, words...)
	t.operand = appendRow(t.operand, []string{path}, kindWords(c.Operand, "")...)
	for _, o := range c.Options {
		t.addOption(path, o)
	}
}

func (t *bashTables) addOption(path string, o Option) {
	list := path + "/" + o.Names[0]
	var keys, kinds []string
	for _, n := range t.p.spellings(o) {
		keys = append(keys, path+"/"+n)
	}
	for _, a := range o.Args {
		kind := kindWords(a, list)
		if kind == nil {
			kind = []string{"text"}
		}
		kinds = append(kinds, strings.Join(kind, " "))
		var names []string
		for _, item := range a.List {
			if item.Switch {
				names = append(names, item.Name)
				continue
			}
			names = append(names, item.Name+"=")
			t.value = appendRow(t.value, []string{list + "/" + item.Name}, kindWords(item.Value, "")...)
		}
		t.names = appendRow(t.names, []string{list}, names...)
	}
	t.args = appendRow(t.args, keys, kinds...)
}

// appendRow adds a row that prints words, each in a line, unless there are none.
func appendRow(rows, keys []string, words ...string) []string {
	if len(words) == 0 {
		return rows
	}
	patterns := make([]string, len(keys))
	for i, k := range keys {
		patterns[i] = quote(k)
	}
	return append(rows, fmt.Sprintf("\t%s) printf '%%s\\n' %s ;;\n", strings.Join(patterns, " | "), quoteAll(words)))
}

// kindWords returns the words for a kind in bash; nil for text. list is the
// key of a list.
func kindWords(v Value, list string) []string {
	switch v.Kind {
	case Words:
		return slices.Concat([]string{"words"}, v.Words)
	case File:
		return []string{"file"}
	case Directory:
		return []string{"dir"}
	case User:
		return []string{"user"}
	case Profile:
		return []string{"profile"}
	case List:
		return []string{"list", list}
	}
	return nil
}
