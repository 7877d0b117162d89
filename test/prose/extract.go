package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A piece is a text without its markup: a comment, a message, a paragraph. Lines are
// joined with spaces.
type piece struct {
	text  string
	start []start // one per line, in order
}

// A start is where a line of the file begins in the text of a piece.
type start struct{ offset, line int }

// line returns the line of the file that holds the byte at offset.
func (p piece) line(offset int) int {
	line := 0
	for _, s := range p.start {
		if s.offset > offset {
			break
		}
		line = s.line
	}
	return line
}

// add appends the text of a line.
func (p *piece) add(text string, line int) {
	if p.text != "" {
		p.text += " "
	}
	p.start = append(p.start, start{len(p.text), line})
	p.text += strings.TrimSpace(text)
}

// extractor returns the function that takes the prose out of a file with this name, nil
// if it has none.
func extractor(path string) func(string, []byte) ([]piece, error) {
	base := filepath.Base(path)
	switch ext := filepath.Ext(path); {
	case ext == ".go":
		return goText
	case ext == ".c" || ext == ".h":
		return cText
	case ext == ".md":
		return markdown
	case filepath.Base(filepath.Dir(path)) == "man":
		return manPage
	case ext == ".sh", ext == ".toml", ext == ".conf", ext == ".service", ext == ".socket", ext == ".txtar", ext == ".txt" && strings.Contains(path, "script"),
		base == "Makefile", base == "run", base == "README":
		return hashComments
	}
	return nil
}

// goText returns the comments of a Go file, and its messages if it is no test.
func goText(path string, src []byte) ([]piece, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var pieces []piece
	for _, group := range file.Comments {
		var p piece
		for _, c := range group.List {
			first := set.Position(c.Pos()).Line
			for i, l := range strings.Split(strings.TrimSuffix(c.Text, "*/"), "\n") {
				p.add(strings.TrimLeft(l, "/* \t"), first+i)
			}
		}
		pieces = append(pieces, p)
	}
	if strings.HasSuffix(path, "_test.go") {
		return pieces, nil
	}
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err != nil || !strings.Contains(text, " ") {
			return true
		}
		var p piece
		first := set.Position(lit.Pos()).Line
		for i, l := range strings.Split(text, "\n") {
			line := first
			if lit.Value[0] == '`' {
				line += i
			}
			p.add(l, line)
		}
		pieces = append(pieces, p)
		return true
	})
	return pieces, nil
}

var cComment = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)

// cText returns the comments of a C file.
func cText(_ string, src []byte) ([]piece, error) {
	var pieces []piece
	for _, at := range cComment.FindAllIndex(src, -1) {
		var p piece
		first := 1 + strings.Count(string(src[:at[0]]), "\n")
		for i, l := range strings.Split(strings.TrimSuffix(string(src[at[0]:at[1]]), "*/"), "\n") {
			p.add(strings.TrimLeft(l, "/* \t"), first+i)
		}
		pieces = append(pieces, p)
	}
	return pieces, nil
}

// hashComments returns the comments that start with "#" in a line of their own, joined
// where lines follow each other.
func hashComments(_ string, src []byte) ([]piece, error) {
	return paragraphs(src, func(l string) (string, bool) {
		text, ok := strings.CutPrefix(strings.TrimSpace(l), "#")
		return text, ok
	})
}

var inlineCode = regexp.MustCompile("`[^`]*`")

// markdown returns the paragraphs and table cells of a document without its code.
func markdown(_ string, src []byte) ([]piece, error) {
	fenced := false
	return paragraphs(src, func(l string) (string, bool) {
		if strings.HasPrefix(strings.TrimSpace(l), "```") {
			fenced = !fenced
			return "", false
		}
		ok := !fenced && strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "    ")
		return inlineCode.ReplaceAllString(l, "CODE"), ok
	})
}

var (
	manMacro = regexp.MustCompile(`^\.(?:B|I|BR|RB|IR|BI|RI|IB|SH|SS) `)
	manFont  = regexp.MustCompile(`\\f.|\\&|\\:`)
)

// manPage returns the text of a man page without requests, comments and examples.
func manPage(_ string, src []byte) ([]piece, error) {
	example := false
	return paragraphs(src, func(l string) (string, bool) {
		switch {
		case strings.HasPrefix(l, ".EX"), strings.HasPrefix(l, ".nf"):
			example = true
		case strings.HasPrefix(l, ".EE"), strings.HasPrefix(l, ".fi"):
			example = false
		}
		text := manMacro.ReplaceAllString(l, "")
		if example || strings.HasPrefix(text, ".") || strings.HasPrefix(text, `'`) {
			return "", false
		}
		return strings.ReplaceAll(manFont.ReplaceAllString(text, ""), `\-`, "-"), strings.TrimSpace(text) != ""
	})
}

// paragraphs joins the lines of src that follow each other and that text takes.
func paragraphs(src []byte, text func(line string) (string, bool)) ([]piece, error) {
	var pieces []piece
	var p piece
	for i, l := range strings.Split(string(src), "\n") {
		if t, ok := text(l); ok {
			p.add(t, i+1)
			continue
		}
		if p.text != "" {
			pieces = append(pieces, p)
		}
		p = piece{}
	}
	if p.text != "" {
		pieces = append(pieces, p)
	}
	return pieces, nil
}
