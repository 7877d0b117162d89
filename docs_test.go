package swtpm_test

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var (
	compatRow      = regexp.MustCompile(`^\| (C-\d{3}) \|`)
	compatCitation = regexp.MustCompile(`\bC-\d{3}\b`)
)

// Each number of a row in COMPAT.md exists once, and each number that is cited exists.
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
