package swtpm_test

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	compatRow      = regexp.MustCompile(`^\| (C-\d{3}) \|`)
	compatCitation = regexp.MustCompile(`\bC-\d{3}\b`)
	compatComment  = regexp.MustCompile(`(?://|\*).*\bCompat: `)
	citingComment  = regexp.MustCompile(`\bCompat: C-\d{3}\b`)
)

// TestCompatNumbers checks that each number of a row in COMPAT.md exists once, and that each cited
// number exists.
func TestCompatNumbers(t *testing.T) {
	file, err := os.Open("COMPAT.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows := map[string]bool{}
	for s := bufio.NewScanner(file); s.Scan(); {
		if m := compatRow.FindStringSubmatch(s.Text()); m != nil {
			if rows[m[1]] {
				t.Errorf("COMPAT.md has two rows %s", m[1])
			}
			rows[m[1]] = true
		}
	}
	if len(rows) == 0 {
		t.Fatal("COMPAT.md has no numbered row")
	}
	out, err := exec.Command("git", "grep", "-nE", `\bC-[0-9]{3}\b`, "--", "*.go", "*.c", "*.h", "*.md", "man", "contrib").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		for _, number := range compatCitation.FindAllString(line, -1) {
			if !rows[number] {
				t.Errorf("COMPAT.md has no row %s, which is cited: %s", number, strings.TrimSpace(line))
			}
		}
	}
}

// TestCompatComments checks that each comment "Compat:" cites the row of COMPAT.md that it
// is about, as in "Compat: C-017: ...".
func TestCompatComments(t *testing.T) {
	out, err := exec.Command("git", "grep", "-n", "Compat: ", "--", "*.go", "*.c", "*.h", ":!docs_test.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		if !compatComment.MatchString(line) {
			continue
		}
		n++
		if !citingComment.MatchString(line) {
			t.Errorf("the comment cites no row of COMPAT.md: %s", strings.TrimSpace(line))
		}
	}
	if n < 50 {
		t.Errorf("found only %d comments", n)
	}
}

//go:generate go test -count=1 -run TestPackageTable . -update

var update = flag.Bool("update", false, "rewrite the table of packages in ARCHITECTURE.md")

// The table of packages in ARCHITECTURE.md is between these lines.
const (
	tableBegin = "<!-- packages -->\n"
	tableEnd   = "<!-- end of packages -->\n"
)

// TestPackageTable compares the table of packages with the first sentences of the package
// comments. With -update it writes the table.
func TestPackageTable(t *testing.T) {
	src, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(src), tableBegin)
	table, tail, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("ARCHITECTURE.md has no lines %q and %q", tableBegin, tableEnd)
	}
	want := packageTable(t)
	if table == want {
		return
	}
	if !*update {
		t.Fatal("the table of packages in ARCHITECTURE.md differs from the package comments; run: go generate .")
	}
	if err := os.WriteFile("ARCHITECTURE.md", []byte(head+tableBegin+want+tableEnd+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// packageTable returns the table of packages: each with the first sentence of its comment.
func packageTable(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Dir}}", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| package | purpose |\n|---|---|\n")
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, ours := strings.CutPrefix(path, module)
		if !ours { // the package of this test
			continue
		}
		purpose := purposeOf(t, dir)
		if purpose == "" {
			t.Errorf("%s has no package comment", name)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.ReplaceAll(purpose, "|", `\|`))
	}
	return b.String()
}

// packageName matches the beginning of a package comment.
var packageName = regexp.MustCompile(`^(?:(?:Package|Command) )?\S+ (?:is (?:the )?)?`)

// purposeOf returns the first sentence of the comment of the package in dir, without its
// name. The comment may be in a test if the package has nothing else.
func purposeOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(files, func(a, b string) int {
		return cmp.Compare(strings.Count(a, "_test.go"), strings.Count(b, "_test.go"))
	})
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if s := new(doc.Package).Synopsis(f.Doc.Text()); s != "" {
			return strings.TrimSuffix(packageName.ReplaceAllString(s, ""), ":")
		}
	}
	return ""
}

var (
	citedFile = regexp.MustCompile(`[\w./-]*\w\.(?:go|c|h|md|toml\.5|toml|service)\b`)
	citedTest = regexp.MustCompile(`\bTest[A-Z]\w+`)
)

// TestArchitectureCitations checks that the files and tests that ARCHITECTURE.md names exist.
func TestArchitectureCitations(t *testing.T) {
	src, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "ls-files").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := "\n" + string(out)
	cited := citedFile.FindAllString(string(src), -1)
	if len(cited) < 50 {
		t.Fatalf("found only %d names of files", len(cited))
	}
	for _, name := range cited {
		if !strings.Contains(files, "/"+name+"\n") && !strings.Contains(files, "\n"+name+"\n") {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", name)
		}
	}
	out, err = exec.Command("git", "grep", "-hoE", `^func Test[A-Z][A-Za-z0-9_]+`, "--", "*_test.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	tests := strings.ReplaceAll(string(out), "func ", "") + "\n"
	for _, name := range citedTest.FindAllString(string(src), -1) {
		if !strings.Contains("\n"+tests, "\n"+name+"\n") {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", name)
		}
	}
}

// exampleName is a file of examples that a text names.
var exampleName = regexp.MustCompile(`\bexamples/([A-Za-z0-9_.-]*[A-Za-z0-9])`)

// TestNamedIsInstalled checks that `make install` installs each example, with its mode, and each document
// that the documents, manual pages and examples name.
func TestNamedIsInstalled(t *testing.T) {
	rules, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	mode := map[string]string{} // of installed files
	for _, m := range regexp.MustCompile(`(?m)^\tinstall -m (\d+) (.*) \$\(DESTDIR\)\$\(DOCDIR\)/(?:examples|docs)$`).FindAllStringSubmatch(string(rules), -1) {
		for pattern := range strings.FieldsSeq(m[2]) {
			files, err := filepath.Glob(pattern)
			if err != nil || len(files) == 0 {
				t.Errorf("install %s: %v, %v", pattern, files, err)
			}
			for _, f := range files {
				mode[f] = m[1]
			}
		}
	}
	var texts []string
	for _, pattern := range []string{"docs/*.md", "man/*", "examples/*"} {
		files, _ := filepath.Glob(pattern)
		texts = append(texts, files...)
	}
	document := regexp.MustCompile(`\bdocs/[a-z-]+\.md`)
	for _, file := range texts {
		info, err := os.Stat(file)
		if err != nil || info.IsDir() { // the state of a TPM that ./run has started
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := append(exampleName.FindAllString(string(b), -1), document.FindAllString(string(b), -1)...)
		for _, name := range names {
			if mode[name] == "" {
				t.Errorf("%s names %s, which is not installed", file, name)
			}
		}
		if mode[file] != "" && (info.Mode()&0o100 != 0) != (mode[file] == "0755") {
			t.Errorf("%s has mode %v and is installed with %s", file, info.Mode(), mode[file])
		}
	}
}
