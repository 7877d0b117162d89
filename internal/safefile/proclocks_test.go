package safefile

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParseLocks checks the locks in the text of /proc/locks.
func TestParseLocks(t *testing.T) {
	got := parseLocks("1: FLOCK  ADVISORY  WRITE 25726 fe:00:9977860 0 EOF\n" +
		"1: -> FLOCK  ADVISORY  WRITE 25727 fe:00:9977860 0 EOF\n" +
		"2: OFDLCK ADVISORY  WRITE -1 fe:1a:12 0 EOF\n" +
		"3: POSIX  ADVISORY  READ  7 00:2f:18446744073709551615 128 128\n" +
		"rubbish\n4: FLOCK ADVISORY WRITE x fe:00:1 0 EOF\n")
	want := []kernelLock{
		{"FLOCK", 25726, unix.Mkdev(0xfe, 0), 9977860},
		{"OFDLCK", -1, unix.Mkdev(0xfe, 0x1a), 12},
		{"POSIX", 7, unix.Mkdev(0, 0x2f), 18446744073709551615},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("parseLocks = %v, want %v", got, want)
	}
}

// FuzzParseLocks checks that what is found stands in the text.
func FuzzParseLocks(f *testing.F) {
	f.Add("1: FLOCK  ADVISORY  WRITE 25726 fe:00:9977860 0 EOF\n")
	f.Add("1: -> POSIX ADVISORY WRITE -1 fe:00:1 0 EOF\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, l := range parseLocks(s) {
			if !strings.Contains(s, l.kind) || !strings.Contains(s, fmt.Sprint(l.ino)) {
				t.Errorf("%+v is not in %q", l, s)
			}
		}
	})
}
