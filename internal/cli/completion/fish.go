package completion

import (
	_ "embed"
	"fmt"
	"strings"
)

// engineFish are the functions that the lines of a fish script use.
//
//go:embed engine.fish
var engineFish string

// fish returns a script for fish 3.
func fish(p *Program) string {
	f := fishScript{p: p, name: "__" + p.ident()}
	var commands []string
	p.walk(func(path string, c *Command) {
		if path != "" {
			commands = append(commands, path)
		}
		f.command(path, c)
	})
	var s strings.Builder
	fmt.Fprintf(&s, "# fish completion for %s\n", strings.Join(p.Names, ", "))
	for _, table := range []struct{ suffix, what, rows string }{
		{"_names", "The names in an option's list.", f.names.String()},
		{"_value", "The kind of a name's value in an option's list.", f.values.String()},
	} {
		fmt.Fprintf(&s, "\n# %s\nfunction %s%s\n    switch $argv[1]\n%s    end\nend\n", table.what, f.name, table.suffix, table.rows)
	}
	s.WriteString(strings.NewReplacer("NAME", f.name, "PROGRAM", quote(p.Names[0]), "COMMANDS", quoteAll(commands),
		"PROFILEDIRS", quoteAll(p.ProfileDirs), "PROFILESUFFIX", p.ProfileSuffix, "PROFILEPATTERN", strings.ReplaceAll(p.ProfileSuffix, ".", `\.`)).Replace(engineFish))
	s.WriteString(f.lines.String())
	for _, other := range p.Names[1:] {
		fmt.Fprintf(&s, "complete -c %s -w %s\n", quote(other), quote(p.Names[0]))
	}
	return s.String()
}

type fishScript struct {
	p                    *Program
	name                 string
	lines, names, values strings.Builder
}

// command writes the lines of a command.
func (f *fishScript) command(path string, c *Command) {
	line := func(format string, args ...any) {
		fmt.Fprintf(&f.lines, "complete -c %s -n %s %s\n", quote(f.p.Names[0]), quote(f.name+"_at '"+path+"'"), fmt.Sprintf(format, args...))
	}
	for _, sub := range c.Commands {
		line("-a %s%s", quote(sub.Name), fishHelp(sub.Help))
	}
	for _, o := range c.Options {
		var names strings.Builder
		for _, n := range o.Names {
			text, two := strings.CutPrefix(n, "--")
			switch {
			case two:
				names.WriteString(" -l " + quote(text))
			case len(n) == 2:
				names.WriteString(" -s " + quote(n[1:]))
			default:
				names.WriteString(" -o " + quote(n[1:]))
			}
		}
		arg := ""
		if len(o.Args) > 0 { // what follows the first one is an operand to fish
			arg = f.value(o.Args[0], path+"/"+o.Names[0])
		}
		line("%s%s%s", names.String()[1:], arg, fishHelp(o.Help))
	}
	switch c.Operand.Kind {
	case Text:
	case File:
		line("-F")
	case Profile:
		line("-F")
		line("-a '(%s_profiles)'", f.name)
	default:
		line("%s", strings.TrimPrefix(f.value(c.Operand, ""), " -x "))
	}
}

// value returns the switches of complete for an argument. key is the key of its option,
// whose list it may be.
func (f *fishScript) value(v Value, key string) string {
	switch v.Kind {
	case Words:
		return " -x -a " + quote(strings.Join(v.Words, " "))
	case File:
		return " -r -F"
	case Directory:
		return fmt.Sprintf(" -x -a '(%s_paths dir \"\" (%[1]s_arg))'", f.name)
	case User:
		return " -x -a '(__fish_complete_users)'"
	case Profile:
		return fmt.Sprintf(" -r -F -a '(%s_profiles)'", f.name)
	case List:
		f.list(v, key)
		return fmt.Sprintf(" -x -a '(%s_list %s)'", f.name, key)
	}
	return " -x"
}

// list adds the rows of a list.
func (f *fishScript) list(v Value, key string) {
	row := func(s *strings.Builder, key string, words []string) {
		if len(words) > 0 {
			fmt.Fprintf(s, "        case %s\n            printf '%%s\\n' %s\n", quote(key), quoteAll(words))
		}
	}
	var names []string
	for _, item := range v.List {
		if item.Switch {
			names = append(names, item.Name)
			continue
		}
		names = append(names, item.Name+"=")
		row(&f.values, key+"/"+item.Name, kindWords(item.Value, ""))
	}
	row(&f.names, key, names)
}

func fishHelp(s string) string {
	if s == "" {
		return ""
	}
	return " -d " + quote(strings.ReplaceAll(s, "\n", " "))
}
