package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// TestPCRCommands checks the commands against the specifications of both versions.
func TestPCRCommands(t *testing.T) {
	two, one := pcrCommands(V20), pcrCommands(V12)
	if len(two) != 12 || fmt.Sprintf("%x", two[4]) != "8001000000140000017e00000001000b0300ff00" {
		t.Errorf("%d, %x", len(two), two[4])
	}
	if len(one) != 24 || fmt.Sprintf("%x", one[17]) != "00c10000000e0000001500000011" {
		t.Errorf("%d, %x", len(one), one[17])
	}
}

// TestReadPCRs checks the digest of the PCRs and the counter of both versions, and the errors.
func TestReadPCRs(t *testing.T) {
	header := []byte{0, 0xc4, 0, 0, 0, 30, 0, 0, 0, 0}
	answers := func(value byte) func([]byte) ([]byte, error) {
		return func([]byte) ([]byte, error) { return append(header[:10:10], bytes.Repeat([]byte{value}, 20)...), nil }
	}
	zero, err := ReadPCRs(V12, answers(0))
	if err != nil || zero.Initial != 24 || zero.Digest == "" {
		t.Errorf("%+v, %v", zero, err)
	}
	if one, err := ReadPCRs(V20, answers(1)); err != nil || one.Counter != 0x01010101 || one.Digest == zero.Digest {
		t.Errorf("%+v, %v", one, err)
	}
	if p, err := ReadPCRs(V20, func([]byte) ([]byte, error) { return ErrorResponse(V20, Result(0x100)), nil }); err != nil || p.Result != 0x100 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, rsp := range [][]byte{nil, header, header[:9]} {
		if _, err := ReadPCRs(V12, func([]byte) ([]byte, error) { return rsp, nil }); err == nil {
			t.Errorf("response %x is accepted", rsp)
		}
	}
	failed := errors.New("failed")
	if _, err := ReadPCRs(V12, func([]byte) ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
}

// TestPCRsLost checks which differences mean that PCRs were reset.
func TestPCRsLost(t *testing.T) {
	for _, c := range []struct {
		name        string
		before, now PCRs
		want        string
	}{
		{"same", PCRs{Digest: "a", Counter: 3}, PCRs{Digest: "a", Counter: 3}, ""},
		{"extended", PCRs{Digest: "a", Counter: 3}, PCRs{Digest: "b", Counter: 4}, ""},
		{"reset", PCRs{Digest: "a", Counter: 3}, PCRs{Digest: "b", Counter: 1}, "the PCRs were reset"},
		{"other", PCRs{Digest: "a", Counter: 3}, PCRs{Digest: "b", Counter: 3}, "the PCRs have other values"},
		{"1.2 extended", PCRs{Digest: "a", Initial: 9}, PCRs{Digest: "b", Initial: 8}, ""},
		{"1.2 reset", PCRs{Digest: "a", Initial: 9}, PCRs{Digest: "b", Initial: 10}, "the PCRs were reset"},
		{"not started", PCRs{Digest: "a"}, PCRs{Result: 0x100}, "reading the PCRs returned TPM_RESULT 0x0 and now returns TPM_RESULT 0x100 (TPM_RC_INITIALIZE)"},
	} {
		if got := c.before.Lost(c.now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
