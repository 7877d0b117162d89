package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// TestTooDeep checks the position at which the nesting of a profile exceeds the limit.
func TestTooDeep(t *testing.T) {
	r := strings.Repeat
	for _, c := range []struct {
		src string
		at  position // zero if it is not too deep
	}{
		{"", position{}},
		{"[a]\nb = [1, [2, [3]]]\nc = {d = 1.5}\ne.f.g = 1\n", position{}},
		{r("a = [1]\n", 100) + r("[b]\n", 100) + r("c.d = 1.5\n", 100), position{}},
		{"a = [" + r("1.5, ", 100) + "]", position{}},
		{"a = " + r("[", 16) + r("]", 16), position{}},
		{"a = " + r("[", 17) + r("]", 17), position{1, 21}},
		{"a = 1\nb = " + r("{c = ", 17), position{2, 85}},
		{r("[", 1<<20), position{1, 17}},
		{"[" + r("a.", 17) + "a]", position{1, 35}},
		{"\n\n" + r("a.", 17) + "a = 1", position{3, 34}},
		{"# " + r("[", 100), position{}},
		{"# x\n" + r("[", 17), position{2, 17}},
		{`a = "` + r("[", 100) + `"`, position{}},
		{`a = '` + r("[", 100) + `\'` + "\n" + r("[", 17), position{2, 17}},
		{`a = "` + r("[", 100) + `\"[` + r(".", 100) + `"`, position{}},
		{`a = """` + r("[\n", 100) + `\""" [ """`, position{}},
		{`a = '''` + r("[\n", 100) + `\''' # [`, position{}},
		// A string of several lines that ends in quotes of its own hides nothing.
		{`a = ["""b""""", ` + r("[", 16), position{1, 32}},
		{`a = ['''b'''', ` + r("[", 16), position{1, 31}},
		// One without an end hides no more than its line.
		{"a = \"b\n" + r("[", 17), position{2, 17}},
		{`a = "\`, position{}},
		{`a = """`, position{}},
	} {
		at, deep := tooDeep(c.src)
		if at != c.at || deep != (c.at != position{}) {
			t.Errorf("tooDeep(%.40q) = %v, %v, want %v", c.src, at, deep, c.at)
		}
	}
}

// TestHostileProfiles checks that no profile makes its reader wait, fill its memory
// or print more than a person reads.
func TestHostileProfiles(t *testing.T) {
	r := strings.Repeat
	for name, src := range map[string]string{
		"nested tables":  "x = " + r("{a=", 1300) + "1" + r("}", 1300),
		"dotted key":     r("a.", 4000) + "a = 1",
		"arrays":         "x = " + r("[", 30000),
		"unknown keys":   "[tpmstate]\n" + r("k = 1\n", 1) + manyKeys(5000),
		"long key":       r("k", 60000) + " = 1",
		"too large":      r("# comment\n", 10000),
		"no end":         `x = """` + r("a", 60000),
		"control":        "\"k\\u001b[31m\\u009b\\n\\u202e\" = 1\n[\"\\u0007\"]\n",
		"raw bytes":      "x = \"\xff\x1b\"\n",
		"value with ESC": "[tpmstate]\nmode = \"\\u001b[2J\"\n",
	} {
		path := filepath.Join(t.TempDir(), "x\x1b.toml")
		if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadProfile(path, "x")
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		text := err.Error()
		if name == "too large" { // the error of the system, which a program prints by package printable
			continue
		}
		if len(text) > (maxFaults+1)*(maxError+10) || strings.Count(text, "\n") > maxFaults {
			t.Errorf("%s: an error of %d bytes", name, len(text))
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && unicode.IsControl(r) || r == 0x202e }); i >= 0 {
			t.Errorf("%s: control character in %q", name, text)
		}
	}
}

// manyKeys returns n different keys.
func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("k" + strings.Map(func(r rune) rune { return r - '0' + 'a' }, r5(i)) + " = 1\n")
	}
	return b.String()
}

func r5(n int) string {
	var d [5]byte
	for i := range d {
		d[i] = byte('0' + n%10)
		n /= 10
	}
	return string(d[:])
}
