package completion

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// odd is a program whose texts contain characters that are special to shells.
func odd() *Program {
	return &Program{
		Names:         []string{"odd-name", "odd_name"},
		ProfileDirs:   []string{"/etc/it's here"},
		ProfileSuffix: ".toml",
		Command: Command{
			Options: []Option{{Names: []string{"--help", "-h"}, Help: `it's [odd]: "x" \ $y`}},
			Commands: []Command{
				{Name: "run", Help: "what's: [this]?", Operand: Value{Kind: Profile}, Options: []Option{
					{Names: []string{"--on", "-o"}},
					{Names: []string{"--user"}, Args: []Value{{Kind: User}}},
					{Names: []string{"--dir"}, Args: []Value{{Kind: Directory}}},
					{Names: []string{"--list"}, Args: []Value{{Kind: List, List: []Item{
						{Name: "a", Switch: true}, {Name: "b", Value: Value{Kind: Words, Words: []string{"c:d", "e"}}},
					}}}},
				}},
				{Name: "both", Operand: Value{Kind: Profile}, Options: []Option{{Names: []string{"--on"}}},
					Commands: []Command{{Name: "--", Commands: []Command{{Name: "run"}}}}},
				{Name: "more", Commands: []Command{{Name: "--", Commands: []Command{{Name: "run"}}}}},
			},
		},
	}
}

// TestSyntax checks the scripts with each shell that is installed.
func TestSyntax(t *testing.T) {
	tools := &Program{Names: []string{"tool"}, OneDash: true, Command: Command{Operand: Value{Kind: File}, Options: []Option{
		{Names: []string{"-cs"}, Help: "it's"}, {Names: []string{"--save"}, Args: []Value{{Kind: Words, Words: []string{"x"}}, {Kind: File}}},
	}}}
	for _, p := range []*Program{odd(), tools, {Names: []string{"nothing"}}} {
		for _, shell := range Shells {
			script, err := Script(p, shell)
			if err != nil {
				t.Fatal(err)
			}
			path, err := exec.LookPath(shell)
			if err != nil {
				continue // the tests of the programs say that it is missing
			}
			file := filepath.Join(t.TempDir(), shell)
			if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(path, "-n", file).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s -n of the script of %s: %v\n%s\n%s", shell, p.Names[0], err, out, script)
			}
		}
	}
	if _, err := Script(odd(), "tcsh"); err == nil || err.Error() != `unknown shell "tcsh"; want bash, zsh, fish` {
		t.Errorf("the script for tcsh: %v", err)
	}
}

// TestBash checks the bash script with unusual words.
func TestBash(t *testing.T) {
	path, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed: install the package bash")
	}
	config := t.TempDir()
	if err := os.Mkdir(config+"/swtpm", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"$(touch x)", "vm", "*"} {
		if err := os.WriteFile(config+"/swtpm/"+name+".toml", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for words, want := range map[string]string{
		"odd-name run ''":                     "$(touch x) * vm [a-z]*",
		"odd-name run '$'":                    "$(touch x)",
		`odd-name ''`:                         "run both more",
		`odd_name ''`:                         "run both more",
		`odd-name -`:                          "--help -h",
		`odd-name run --li`:                   "--list",
		`odd-name run --list ''`:              "a b=",
		`odd-name run --list a,`:              "a,b=",
		`odd-name run --list a,a`:             "",
		`odd-name run --list b = e`:           "e",
		`odd-name run --list = b =`:           "c:d e",
		`odd-name run --user run --o`:         "--on",
		`odd-name run --on --o`:               "--on",
		`odd-name more -- r`:                  "run",
		`odd-name both --o`:                   "--on",
		`odd-name both -- r`:                  "run",
		`odd-name both -`:                     "--on --",
		`odd-name more x -- r`:                "run",
		`odd-name '$(touch x)' 'a*'`:          "",
		`odd-name run --list '` + "`x`" + `'`: "",
	} {
		script, _ := Script(odd(), "bash")
		script += "\nCOMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'; COMP_WORDS=(" + words + "); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _odd_name; echo \"${COMPREPLY[*]}\"\n"
		cmd := exec.Command(path, "--norc", "-c", script)
		cmd.Dir = t.TempDir()
		if err := os.WriteFile(cmd.Dir+"/[a-z]*", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+config)
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s becomes %q, %v, want %q", words, got, err, want)
		}
		if left, _ := os.ReadDir(cmd.Dir); len(left) > 1 {
			t.Errorf("%s has run something", words)
		}
	}
}

// TestValueOf checks how the argument of an option is completed.
func TestValueOf(t *testing.T) {
	for name, want := range map[string]Value{
		"PROFILE":       {Kind: Profile},
		"<path>":        {Kind: File},
		"DIR":           {Kind: Directory},
		"USER":          {Kind: User},
		"bash|zsh|fish": {Kind: Words, Words: Shells},
		"N":             {},
		"":              {},
	} {
		if got := ValueOf(name); !reflect.DeepEqual(got, want) {
			t.Errorf("ValueOf(%q) = %+v, want %+v", name, got, want)
		}
	}
}
