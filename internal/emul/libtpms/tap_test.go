package libtpms

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestTapHandles compares the numbers of handles with those of package capture, whose test
// compares them with what a TPM reports.
func TestTapHandles(t *testing.T) {
	src, err := os.ReadFile("../../capture/table20.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`0x(1[0-9a-f]{2}): \{(\d),`).FindAllStringSubmatch(string(src), -1)
	if len(rows) < 100 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		code, _ := strconv.ParseUint(r[1], 16, 32)
		if got := fmt.Sprint(Handles(uint32(code))); got != r[2] {
			t.Errorf("command %#x: %s handles, want %s", code, got, r[2])
		}
	}
}
