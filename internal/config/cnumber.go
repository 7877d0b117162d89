package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// trimC drops what strtol skips before the digits.
func trimC(s string) string {
	return strings.TrimLeft(s, " \t\n\v\f\r")
}

func isRange(err error) bool { return errors.Is(err, strconv.ErrRange) }

// parseInt reads the decimal number of a sub-option, C int range.
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

// parsePort reads the argument of --port as C's strtoul does with base 0: 0x
// and 0 prefixes, nothing left over, "" is 0. It may return more than 65535.
func parsePort(s string) (uint32, bool) {
	s = trimC(s)
	if s == "" {
		return 0, true
	}
	neg := s[0] == '-'
	if neg || s[0] == '+' {
		s = s[1:]
	}
	if s == "" || strings.ContainsAny(s, "_+-") || hasGoPrefix(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 0, 32)
	return uint32(n), err == nil && (!neg || n == 0)
}

// hasGoPrefix tells whether s has a prefix that is a number for Go, not for C.
func hasGoPrefix(s string) bool {
	return len(s) > 1 && s[0] == '0' && strings.ContainsRune("bBoO", rune(s[1]))
}

// parseInfo reads the argument of --print-info as C's strtoul does with base 0:
// 0x and 0 prefixes, nothing left over, "" is 0. Only the low 32 bits count.
func parseInfo(s string) (uint32, bool) {
	s = trimC(s)
	if s == "" {
		return 0, true
	}
	neg := s[0] == '-'
	if neg || s[0] == '+' {
		s = s[1:]
	}
	if s == "" || strings.ContainsAny(s, "_+-") || hasGoPrefix(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 0, 64)
	if neg {
		n = -n
	}
	return uint32(n), err == nil
}

// parseFD reads the argument of --fd: decimal, nothing left over, "" is 0.
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
