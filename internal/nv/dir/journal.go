package dir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// entry is what a journal says of one file.
type entry struct {
	name string
	old  string // SHA-256 of what is there, in hex digits, or noDigest
	next string // of what is to be there
}

// noDigest stands for no file.
const noDigest = "-"

// journal tells what a batch has decided: the files in the order in which they
// change. It is text, so that a person can read it:
//
//	swtpm-go journal 1
//	tpm2-00.permall OLD NEXT
//	tpm2-00.volatilestate OLD -
//	end SUM
//
// OLD and NEXT are the SHA-256 of the file before and after, in 64 lower-case
// hex digits, "-" for no file. SUM is the SHA-256 of all that is before the last
// line. Each line ends in a newline.
type journal []entry

// maxEntries is how many files a journal tells of at most; no TPM has so many.
// Each of them is read as a whole.
const maxEntries = 16

const (
	journalHead = "swtpm-go journal 1\n"
	journalEnd  = "end "
)

func (j journal) encode() []byte {
	b := []byte(journalHead)
	for _, e := range j {
		b = fmt.Appendf(b, "%s %s %s\n", e.name, e.old, e.next)
	}
	sum := sha256.Sum256(b)
	return fmt.Appendf(b, "%s%x\n", journalEnd, sum)
}

// decodeJournal is the inverse of encode. The names must begin with prefix: a
// journal is not to reach other files.
func decodeJournal(prefix string, b []byte) (journal, error) {
	rest, ok := bytes.CutPrefix(b, []byte(journalHead))
	if !ok {
		return nil, errors.New("not a journal, or one of a newer version")
	}
	var j journal
	for len(rest) > 0 {
		line, next, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			break
		}
		if sum, ok := bytes.CutPrefix(line, []byte(journalEnd)); ok {
			want := sha256.Sum256(b[:len(b)-len(rest)])
			if len(next) > 0 || string(sum) != hex.EncodeToString(want[:]) {
				return nil, errors.New("damaged: its sum does not match")
			}
			if len(j) == 0 || j[0].next == noDigest {
				return nil, errors.New("it stores nothing first")
			}
			return j, nil
		}
		e, err := decodeEntry(prefix, string(line))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(j, func(other entry) bool { return other.name == e.name }) {
			return nil, fmt.Errorf("damaged: %q is there twice", e.name)
		}
		if j = append(j, e); len(j) > maxEntries {
			return nil, fmt.Errorf("damaged: it has more than %d files", maxEntries)
		}
		rest = next
	}
	return nil, errors.New("damaged: it has no end")
}

func decodeEntry(prefix, line string) (entry, error) {
	f := strings.Split(line, " ")
	if len(f) != 3 || !isDigest(f[1]) || !isDigest(f[2]) {
		return entry{}, fmt.Errorf("damaged: the line %q", line)
	}
	if !strings.HasPrefix(f[0], prefix) || len(f[0]) == len(prefix) || checkName(f[0]) != nil {
		return entry{}, fmt.Errorf("damaged: %q is no state file of this TPM", f[0])
	}
	return entry{name: f[0], old: f[1], next: f[2]}, nil
}

// isDigest tells whether s is noDigest or 64 lower-case hex digits.
func isDigest(s string) bool {
	return s == noDigest || len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}
