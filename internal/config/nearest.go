package config

import (
	"strconv"
	"strings"
)

// Nearest returns "; did you mean …?" with the word of known that is most similar to
// name, or "" if none is similar.
func Nearest(name string, known []string) string {
	best, bestAt := "", len(name)/3+2
	for _, k := range known {
		if d := distance(name, k); d < bestAt && d < len(k) {
			best, bestAt = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + strconv.Quote(best) + "?"
}

// meant returns "; did you mean …?" with the quoted word in want that is most
// similar to v, or "" if v is not a string or no word is similar.
func meant(v any, want string) string {
	name, ok := v.(string)
	if !ok {
		return ""
	}
	return Nearest(name, quoted(want))
}

// quoted returns the quoted words in want, without those that begin with a digit.
func quoted(want string) (known []string) {
	for n, part := range strings.Split(want, `"`) {
		if n%2 == 1 && strings.IndexAny(part, "0123456789") != 0 {
			known = append(known, part)
		}
	}
	return known
}

// distance returns the number of letters to insert, remove or change to turn a into b. It returns
// len(a) if a is longer than 64 bytes.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, last+1, row[j]+1)
		}
	}
	return row[len(b)]
}
