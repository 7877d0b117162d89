package mark

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// host is a host with TPMs that are where the test says.
type host struct {
	d     *Dir
	marks map[byte]generation.Mark
}

// see reports that a TPM is at a location, as a TPM does that raised no alarm.
func (h *host) see(t *testing.T, tpm byte, location string) {
	t.Helper()
	m := h.mark(tpm)
	if err := h.d.Move(m, location); err != nil {
		t.Fatal(err)
	}
	m.Place = generation.PlaceOf(location)
	h.marks[tpm] = m
	if got, err := h.d.Read(m.Identity); err != nil || !cmp.Equal(got, m) {
		t.Errorf("%v, %s", err, cmp.Diff(m, got))
	}
}

func (h *host) mark(tpm byte) generation.Mark {
	if m, ok := h.marks[tpm]; ok {
		return m
	}
	m := sample()
	m.Identity[0] = tpm
	return m
}

func (h *host) want(t *testing.T, tpm byte, location string, alarm bool) {
	t.Helper()
	err := h.d.Exchanged(h.mark(tpm), location)
	if alarm && !errors.Is(err, generation.ErrExchanged) || !alarm && err != nil {
		t.Errorf("TPM %d at %s: %v, want an alarm: %t", tpm, location, err, alarm)
	}
}

// TestExchanged checks which TPM in which place raises an alarm.
func TestExchanged(t *testing.T) {
	h := &host{newDir(t), map[byte]generation.Mark{}}
	h.want(t, 1, "dir:///a", false)
	h.see(t, 1, "dir:///a")
	h.see(t, 2, "dir:///b")
	for _, w := range []struct {
		tpm      byte
		location string
		alarm    bool
	}{
		{1, "dir:///a", false}, {2, "dir:///b", false}, {1, "dir:///c", false}, {2, "dir:///c", false},
		{1, "dir:///b", true}, {2, "dir:///a", true}, {3, "dir:///a", false}, // a new TPM
	} {
		h.want(t, w.tpm, w.location, w.alarm)
	}
	if err := h.d.Exchanged(h.mark(1), "dir:///b"); err == nil || !strings.Contains(err.Error(), `was last seen at "dir:///a"`) {
		t.Errorf("%v", err)
	}
	h.see(t, 1, "dir:///c") // moves
	h.want(t, 2, "dir:///a", false)
	h.see(t, 2, "dir:///a")
	h.want(t, 1, "dir:///b", false)
	h.want(t, 1, "dir:///a", true)
	h.see(t, 1, "dir:///a") // accepted
	h.want(t, 1, "dir:///a", false)
	h.want(t, 2, "dir:///a", false) // where its own mark says that it is
}

// TestFalsePlace checks that a place file that another program wrote raises no alarm for a TPM
// in its own place, and that a damaged one counts as none.
func TestFalsePlace(t *testing.T) {
	h := &host{newDir(t), map[byte]generation.Mark{}}
	h.see(t, 1, "dir:///a")
	h.see(t, 2, "dir:///b")
	if err := h.d.occupy(occupant{nameOf(h.mark(9).Identity), "dir:///a"}); err != nil {
		t.Fatal(err)
	}
	h.want(t, 1, "dir:///a", false)
	h.want(t, 2, "dir:///a", true)
	path := filepath.Join(h.d.path, placeName(generation.PlaceOf("dir:///a")))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		changed := append([]byte(nil), b...)
		changed[n] ^= 1
		if n >= len(placeMagic) && n < placeHead {
			continue // another TPM
		}
		for _, c := range [][]byte{changed, b[:n]} {
			if err := os.WriteFile(path, c, 0o600); err != nil {
				t.Fatal(err)
			}
			h.want(t, 2, "dir:///a", false)
		}
	}
}
