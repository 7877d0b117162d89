// Prose reports the constructions in comments, messages, man pages and documents that a
// reader has to decode, with the rule and the wording to use. It is a safety net: text
// that passes can still be hard to read.
//
//	go run ./test/prose [DIRECTORY]
//
// It exits with 1 if it finds something. A text that repeats the reference's words is
// left out by a comment "prose:quote" on the same line or on the line above.
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// skipped are the directories that hold no text of ours.
var skipped = []string{".git", "bin", "build", "testdata"}

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	n, err := checkTree(root)
	if err != nil {
		fmt.Fprintf(os.Stderr, "prose: %v\n", err)
		os.Exit(1)
	}
	if n > 0 {
		fmt.Fprintf(os.Stderr, "prose: %d findings\n", n)
		os.Exit(1)
	}
}

// checkTree checks every file below root and prints the findings. It returns their
// number.
func checkTree(root string) (int, error) {
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, d.Name()):
			return filepath.SkipDir
		case !d.Type().IsRegular() || filepath.Base(filepath.Dir(path)) == "prose":
			return nil
		}
		extract := extractor(path)
		if extract == nil {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pieces, err := extract(path, src)
		if err != nil {
			return err
		}
		n += report(path, src, pieces)
		return nil
	})
	return n, err
}

// report prints what is found in the pieces of one file and returns the number.
func report(path string, src []byte, pieces []piece) int {
	lines := bytes.Split(src, []byte("\n"))
	n := 0
	for _, p := range pieces {
		for _, f := range check(p.text) {
			line := p.line(f.offset)
			if quoted(lines, line) {
				continue
			}
			fmt.Printf("%s:%d: %q: %s; write %s\n", path, line, shorten(f.words), f.rule.name, f.rule.suggest)
			n++
		}
	}
	return n
}

// quoted reports whether line, counted from 1, or the line above it is marked.
func quoted(lines [][]byte, line int) bool {
	for _, l := range lines[max(line-2, 0):min(line, len(lines))] {
		if bytes.Contains(l, []byte("prose:quote")) {
			return true
		}
	}
	return false
}

// shorten returns the first 60 bytes of words, on one line.
func shorten(words string) string {
	words = strings.TrimSpace(words)
	if len(words) > 60 {
		words = words[:57] + "..."
	}
	return words
}
