package completion

import (
	"fmt"
	"strings"
)

// zsh returns a script that is both a file for $fpath and one to source. It has a
// function for each command, for each list and for the profiles.
func zsh(p *Program) string {
	z := zshScript{p: p, name: "_" + p.ident()}
	fmt.Fprintf(&z.s, "#compdef %s\n# zsh completion for %s\n", strings.Join(p.Names, " "), strings.Join(p.Names, ", "))
	p.walk(z.command)
	z.profiles()
	fmt.Fprintf(&z.s, `
if [[ $funcstack[1] == %[1]s ]]; then
	%[1]s "$@"
else
	compdef %[1]s %[2]s
fi
`, z.name, strings.Join(p.Names, " "))
	return z.s.String()
}

type zshScript struct {
	p    *Program
	name string
	s    strings.Builder
}

// function returns the name of the function for the words of a key.
func (z *zshScript) function(key string) string {
	return z.name + strings.ReplaceAll(key, "/", "__")
}

// command writes the function of a command and the functions of its options' lists.
func (z *zshScript) command(path string, c *Command) {
	fmt.Fprintf(&z.s, "\n%s() {\n", z.function(path))
	if len(c.Commands) > 0 {
		z.choose(path, c)
	}
	if len(c.Commands) == 0 || c.mixed() {
		cluster := "-s "
		if z.p.OneDash {
			cluster = ""
		}
		fmt.Fprintf(&z.s, "\t_arguments %s: \\\n", cluster)
		for _, o := range c.Options {
			z.option(path, o)
		}
		operands := "()" // a blank, as for arguments, would keep options from being inserted
		if c.Operand.Kind != Text {
			operands = z.action(c.Operand, "")
		}
		fmt.Fprintf(&z.s, "\t\t%s\n", quote("*: :"+operands))
	}
	z.s.WriteString("}\n")
	for _, o := range c.Options {
		for _, a := range o.Args {
			if a.Kind == List {
				z.list(path+"/"+o.Names[0], a.List)
			}
		}
	}
}

// choose writes the choice between the commands of c, and calls their functions.
func (z *zshScript) choose(path string, c *Command) {
	var plain, described []string
	for _, sub := range c.Commands {
		if strings.HasPrefix(sub.Name, "-") {
			plain = append(plain, sub.Name)
		} else {
			described = append(described, strings.TrimSuffix(sub.Name+":"+strings.ReplaceAll(sub.Help, ":", `\:`), ":"))
		}
	}
	if c.mixed() {
		fmt.Fprintf(&z.s, "\t(( CURRENT == 2 )) && compadd -- %s\n\tif (( CURRENT > 2 )); then\n\t\tcase $words[2] in\n", quoteAll(plain))
		for _, sub := range c.Commands {
			fmt.Fprintf(&z.s, "\t\t%s) shift words; (( CURRENT-- )); %s; return ;;\n", quote(sub.Name), z.function(path+"/"+sub.Name))
		}
		z.s.WriteString("\t\tesac\n\tfi\n")
		return
	}
	var options []string
	for _, o := range c.Options {
		options = append(options, o.Names...)
	}
	z.s.WriteString("\tif (( CURRENT == 2 )); then\n")
	if described != nil {
		fmt.Fprintf(&z.s, "\t\tlocal -a commands=(%s)\n\t\t_describe -t commands command commands\n", quoteAll(described))
	}
	if plain != nil {
		fmt.Fprintf(&z.s, "\t\tcompadd -- %s\n", quoteAll(plain))
	}
	if options != nil {
		fmt.Fprintf(&z.s, "\t\t[[ $PREFIX == -* ]] && compadd -- %s\n", quoteAll(options))
	}
	z.s.WriteString("\t\treturn\n\tfi\n\tshift words\n\t(( CURRENT-- ))\n\tcase $words[1] in\n")
	for _, sub := range c.Commands {
		fmt.Fprintf(&z.s, "\t%s) %s ;;\n", quote(sub.Name), z.function(path+"/"+sub.Name))
	}
	z.s.WriteString("\tesac\n")
}

// option writes the specs of an option for _arguments, one for each name.
func (z *zshScript) option(path string, o Option) {
	args := ""
	for _, a := range o.Args {
		args += ":" + zshName(a) + ":" + z.action(a, path+"/"+o.Names[0])
	}
	for _, n := range o.Names {
		spec := n
		if len(o.Names) > 1 {
			spec = "(" + strings.Join(o.Names, " ") + ")" + n
		}
		switch {
		case args == "":
		case strings.HasPrefix(n, "--"):
			spec += "="
		case !z.p.OneDash:
			spec += "+"
		}
		if o.Help != "" {
			spec += "[" + zshText(o.Help) + "]"
		}
		fmt.Fprintf(&z.s, "\t\t%s \\\n", quote(spec+args))
	}
}

// list writes the function of a list.
func (z *zshScript) list(key string, items []Item) {
	fmt.Fprintf(&z.s, "\n%s() {\n\t_values -s , list", z.function(key))
	for _, item := range items {
		spec := item.Name
		if !item.Switch {
			spec += ":" + zshName(item.Value) + ":" + z.action(item.Value, "")
		}
		fmt.Fprintf(&z.s, " \\\n\t\t%s", quote(spec))
	}
	z.s.WriteString("\n}\n")
}

// action returns how a value is completed, in the language of _arguments. list is
// the key of a list.
func (z *zshScript) action(v Value, list string) string {
	switch v.Kind {
	case Words:
		return "(" + strings.ReplaceAll(strings.Join(v.Words, " "), ":", `\:`) + ")"
	case File:
		return "_files"
	case Directory:
		return "_files -/"
	case User:
		return "_users"
	case Profile:
		return z.name + "_profiles"
	case List:
		return z.function(list)
	}
	return " "
}

// profiles writes the function that completes a profile.
func (z *zshScript) profiles() {
	if z.p.ProfileSuffix == "" {
		return
	}
	fmt.Fprintf(&z.s, `
%s_profiles() {
	local dir
	local -a files
	for dir in "${XDG_CONFIG_HOME:-$HOME/.config}/swtpm" %s; do
		files+=("$dir"/*%s(N:t:r))
	done
	compadd -a files
	_files
}
`, z.name, quoteAll(z.p.ProfileDirs), z.p.ProfileSuffix)
}

// zshName returns the heading of the candidates for a value.
func zshName(v Value) string {
	return map[Kind]string{Words: "word", File: "file", Directory: "directory", User: "user", Profile: "profile", List: "list"}[v.Kind] + " "
}

// zshText returns s so that it may stand in brackets in a spec.
func zshText(s string) string {
	return strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, "\n", " ").Replace(s)
}
