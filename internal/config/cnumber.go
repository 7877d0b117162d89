package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// trimC removes the white space that strtol skips before the digits.
func trimC(s string) string {
	return strings.TrimLeft(s, " \t\n\v\f\r")
}

func isRange(err error) bool { return errors.Is(err, strconv.ErrRange) }

// parseInt reads the decimal number of a suboption, in the range of a C int.
func parseInt(s string) (int, error) {
	n, err := strconv.ParseInt(trimC(s), 10, 32)
	if err != nil {
		return 0, numberError(s, err)
	}
	return int(n), nil
}

func numberError(s string, err error) error {
	if isRange(err) {
		return fmt.Errorf("number '%s' outside valid range", s)
	}
	return fmt.Errorf("invalid number '%s'", s)
}

// parsePort reads the argument of --port. It may return more than 65535.
func parsePort(s string) (uint32, bool) {
	n, neg, ok := strtoul(s, 32)
	return uint32(n), ok && (!neg || n == 0)
}

// parseInfo reads the argument of --print-info. Only the low 32 bits count.
func parseInfo(s string) (uint32, bool) {
	n, neg, ok := strtoul(s, 64)
	if neg {
		n = -n
	}
	return uint32(n), ok
}

// strtoul reads a number as strtoul(3) does with base 0: with an optional sign and the prefixes 0x
// and 0; "" is 0. ok is false if anything follows the number. neg is true if a minus precedes n.
func strtoul(s string, bits int) (n uint64, neg, ok bool) {
	s = trimC(s)
	if s == "" {
		return 0, false, true
	}
	neg = s[0] == '-'
	if neg || s[0] == '+' {
		s = s[1:]
	}
	if s == "" || strings.ContainsAny(s, "_+-") || hasGoPrefix(s) {
		return 0, neg, false
	}
	n, err := strconv.ParseUint(s, 0, bits)
	return n, neg, err == nil
}

// hasGoPrefix reports whether s has a prefix that makes it a number for Go, not for C.
func hasGoPrefix(s string) bool {
	return len(s) > 1 && s[0] == '0' && strings.ContainsRune("bBoO", rune(s[1]))
}

// parseFD reads the argument of --fd, a decimal number; "" is 0. It returns false for anything else.
func parseFD(s string) (int, bool) {
	s = trimC(s)
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(s, 10, 33)
	return int(n), err == nil && n >= 0
}

// leadingInt reads the number that TPM_PORT begins with, as atoi does; false if
// there is none.
func leadingInt(s string) (int, bool) {
	s = trimC(s)
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || end == 0 && (s[0] == '-' || s[0] == '+')) {
		end++
	}
	n, err := strconv.Atoi(s[:end])
	return n, err == nil
}
