package libtpms_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/handover"
)

// fdStore is a descriptor store that stores nothing.
type fdStore struct{}

func (fdStore) StoreFD(int, string) error { return nil }
func (fdStore) RemoveFD(string)           {}

// TestSlots checks that C and Go read and overwrite each other's slots: the two newest states
// exist, whether C or Go wrote them, and no other.
func TestSlots(t *testing.T) {
	s, unusable, err := handover.Open(fdStore{}, nil)
	if unusable != nil || err != nil {
		t.Fatal(unusable, err)
	}
	long := strings.Repeat("x", 3000)
	fromGo := func(text string) {
		t.Helper()
		if err := s.Save([]byte(text[:1]), []byte(text[1:])); err != nil {
			t.Fatal(err)
		}
	}
	fromC := func(text string) {
		t.Helper()
		if !libtpms.WriteSlot(s.Slots(), []byte(text[:1]), []byte(text[1:])) {
			t.Fatalf("C does not write %.10q", text)
		}
	}
	previous := ""
	for _, step := range []struct {
		write func(string)
		text  string
	}{
		{fromC, long}, {fromC, long + "y"}, {fromGo, "go 1"}, {fromC, "C 1"}, {fromC, "C 2"},
		{fromGo, long}, {fromGo, long + "z"}, {fromC, "C 3"}, {fromGo, "go 2"}, {fromC, "C 4"},
	} {
		step.write(step.text)
		want := step.text
		if previous != "" {
			want += " " + previous
		}
		if got := string(bytes.Join(s.Saved(), []byte(" "))); got != want {
			t.Fatalf("after %.10q: saved %.40q, want %.40q", step.text, got, want)
		}
		previous = step.text
	}
	for i, slot := range s.Slots() {
		if bytes.Contains(slot, []byte("xx")) {
			t.Errorf("slot %d still has the end of a longer state", i)
		}
	}
	for _, w := range []struct{ header, body int }{{0, 9}, {9, 0}, {129, 9}, {9, len(s.Slots()[0]) - handover.SlotHeader - 8}} {
		if libtpms.WriteSlot(s.Slots(), make([]byte, w.header), make([]byte, w.body)) {
			t.Errorf("C writes a header of %d bytes and a state of %d", w.header, w.body)
		}
	}
	if got := string(bytes.Join(s.Saved(), []byte(" "))); got != "C 4 go 2" {
		t.Errorf("after states that C leaves to Go: saved %q", got)
	}
}
