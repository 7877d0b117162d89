package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRules checks that each rule finds its bad wording, and does not find the good one.
func TestRules(t *testing.T) {
	covered := map[string]bool{}
	for _, c := range []struct{ rule, bad, good string }{
		{"name the actor", "nobody waits", "no client waits"},
		{"a sentence has a subject", "It ends. Who may not, keeps a set.", "It ends. A process that may not keeps a set. Who knows?"},
		{"standard verb for tell", "the client is told", "tell apart, telling one from the other"},
		{"exists or missing", "the file is not there", "is there a file?"},
		{"next to, not beside", "a file beside the state", "a file next to the state; besides"},
		{"disconnected, removed or lost", "the client has gone", "the client disconnected"},
		{"repeat the noun", "as that of the profile", "as the profile's name"},
		{"a possessive needs its noun", "the lock is ours.", "it is our lock."},
		{"previous, next", "the process before this one", "the previous process"},
		{"no causative has", "has systemd keep the socket", "has never run, had an answer, has to keep"},
		{"because, since", "it waits, for it is busy", "it waits for it"},
		{"after, not behind", "the bytes behind the header", "behind the key"},
	} {
		covered[c.rule] = true
		names := func(text string) string {
			var b strings.Builder
			for _, f := range check(text) {
				b.WriteString(f.rule.name + ";")
			}
			return b.String()
		}
		if got := names(c.bad); got != c.rule+";" {
			t.Errorf("check(%q) = %q, want %q", c.bad, got, c.rule+";")
		}
		if got := names(c.good); got != "" {
			t.Errorf("check(%q) = %q, want none", c.good, got)
		}
	}
	for _, r := range rules {
		if !covered[r.name] {
			t.Errorf("rule %q has no case", r.name)
		}
	}
}

// TestExtract checks that a finding has the right line number, in each kind of file.
func TestExtract(t *testing.T) {
	for name, src := range map[string]string{
		"a.go":       "package a\n\n// It is good,\n// nobody waits.\n",
		"message.go": "package a\n\nvar a = `one line,\nthe next one,\nnobody waits`\n",
		"a.c":        "/* one\n * two\n */\n// nobody waits\n",
		"a.md":       "```\nnobody\n```\nnobody waits `nobody`\n",
		"man/a.8":    ".TH A\n.EX\nnobody\n.I nobody\nnobody\n.EE\n",
		"a.sh":       "echo nobody\necho nobody\n: nobody\n# nobody waits\n",
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		pieces, err := extractor(path)(path, []byte(src))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var lines []int
		for _, p := range pieces {
			for _, f := range check(p.text) {
				lines = append(lines, p.line(f.offset))
			}
		}
		want := []int{4}
		switch name {
		case "man/a.8":
			want = nil
		case "message.go":
			want = []int{5}
		}
		if len(lines) != len(want) || len(want) == 1 && lines[0] != want[0] {
			t.Errorf("findings of %s are in lines %v, want %v", name, lines, want)
		}
	}
}

// TestTree checks that the tree is walked, and that a text that is marked as a quotation is left
// out.
func TestTree(t *testing.T) {
	dir := t.TempDir()
	for name, src := range map[string]string{
		"a.sh": "# nobody waits\n\n# prose:quote\n# nobody waits\n",
		"b.c":  "int a; /* nobody */\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := checkTree(dir); n != 2 || err != nil {
		t.Errorf("checkTree = %d, %v, want 2 findings", n, err)
	}
}
