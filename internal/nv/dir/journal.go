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

// entry is the change of one file in a journal.
type entry struct {
	name string
	old  string // SHA-256 before the change, in hex digits, or noDigest
	next string // SHA-256 after it
}

// noDigest stands for a missing file.
const noDigest = "-"

// journal lists the files of a batch in the order in which they change. It is text, so
// that a person can read it:
//
//	swtpm-go journal 1
//	tpm2-00.permall OLD NEXT
//	tpm2-00.volatilestate OLD -
//	end SUM
//
// OLD and NEXT are the SHA-256 of the file before and after, in 64 lower-case
// hex digits, "-" for a missing file. SUM is the SHA-256 of all lines before the last
// one. Each line ends in a newline.
type journal []entry

// maxEntries is the largest number of files in a journal; no TPM has so many. Each of
// them is read as a whole.
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

// decodeJournal is the inverse of encode. The names must begin with prefix: a journal
// must not change other files.
func decodeJournal(prefix string, b []byte) (journal, error) {
	rest, ok := bytes.CutPrefix(b, []byte(journalHead))
	if !ok {
		return nil, errors.New("unknown format, perhaps of a newer version")
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
				return nil, errors.New("damaged: wrong checksum")
			}
			if len(j) == 0 || j[0].next == noDigest {
				return nil, errors.New("damaged: the first entry stores nothing")
			}
			return j, nil
		}
		e, err := decodeEntry(prefix, string(line))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(j, func(other entry) bool { return other.name == e.name }) {
			return nil, fmt.Errorf("damaged: duplicate entry %q", e.name)
		}
		if j = append(j, e); len(j) > maxEntries {
			return nil, fmt.Errorf("damaged: more than %d entries", maxEntries)
		}
		rest = next
	}
	return nil, errors.New("damaged: missing end")
}

func decodeEntry(prefix, line string) (entry, error) {
	f := strings.Split(line, " ")
	if len(f) != 3 || !isDigest(f[1]) || !isDigest(f[2]) {
		return entry{}, fmt.Errorf("damaged: invalid line %q", line)
	}
	if !strings.HasPrefix(f[0], prefix) || len(f[0]) == len(prefix) || checkName(f[0]) != nil {
		return entry{}, fmt.Errorf("damaged: %q is not a state file of this TPM", f[0])
	}
	return entry{name: f[0], old: f[1], next: f[2]}, nil
}

// isDigest reports whether s is noDigest or 64 lower-case hex digits.
func isDigest(s string) bool {
	return s == noDigest || len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}
