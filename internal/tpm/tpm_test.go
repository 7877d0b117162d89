package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
)

// TestCommands checks the bytes of each command.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"TPM_Startup(ST_CLEAR)", Startup(V12, 1), "00c10000000c000000990001"},
		{"TPM_Startup(ST_DEACTIVATED)", Startup(V12, 3), "00c10000000c000000990003"},
		{"TPM2_Startup(CLEAR)", Startup(V20, 0), "80010000000c000001440000"},
		{"TPM2_Startup(STATE)", Startup(V20, 1), "80010000000c000001440001"},
		{"TPM2_Shutdown(STATE)", Shutdown(1), "80010000000c000001450001"},
		{"TPM_FAIL to a 1.2 client", ErrorResponse(V12, Fail), "00c40000000a00000009"},
		{"TPM_RC_FAILURE to a 2.0 client", ErrorResponse(V20, RCFailure), "80010000000a00000101"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
}

// TestParseHeader checks the header of a command, and that nine bytes have none.
func TestParseHeader(t *testing.T) {
	b, _ := hex.DecodeString("80010000000c0000014400")
	h, ok := ParseHeader(b)
	if want := (Header{TagNoSessions, 12, TPM2Startup}); !ok || h != want {
		t.Errorf("ParseHeader(%x) = %+v, %v, want %+v, true", b, h, ok, want)
	}
	if _, ok := ParseHeader(b[:9]); ok {
		t.Error("ParseHeader of 9 bytes is ok, want not")
	}
}

// TestResultOf checks the result that an error contains.
func TestResultOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Result
	}{
		{nil, Success},
		{BadLocality, BadLocality},
		{fmt.Errorf("outer: %w", fmt.Errorf("inner: %w", DecryptError)), DecryptError},
		{fmt.Errorf("%w: %w", errors.New("first"), RCFailure), RCFailure},
		{errors.New("anything else"), Fail},
	} {
		if got := ResultOf(c.err); got != c.want {
			t.Errorf("ResultOf(%v) = %#x, want %#x", c.err, uint32(got), uint32(c.want))
		}
	}
	if Success.Err() != nil {
		t.Error("Success.Err() is an error")
	}
	if got, want := Result(0x21).Error(), "TPM_RESULT 0x21 (TPM_DECRYPT_ERROR)"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if got, want := Result(0x984).Error(), "TPM_RESULT 0x984"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

// TestNames checks the names of blobs and versions.
func TestNames(t *testing.T) {
	for b, want := range map[Blob]string{Permanent: "permall", Volatile: "volatilestate", Savestate: "savestate", 0: "", 4: ""} {
		if got := b.Name(); got != want {
			t.Errorf("Blob(%d).Name() = %q, want %q", uint32(b), got, want)
		}
	}
	for text, want := range map[string]Version{"1.2": V12, "2.0": V20, "2": 0, "": 0, "Version(0)": 0} {
		var got Version
		if err := got.UnmarshalText([]byte(text)); got != want || (err == nil) != (want != 0) {
			t.Errorf("UnmarshalText(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for v, want := range map[Version]string{V12: "1.2", V20: "2.0", 0: "Version(0)"} {
		if got := v.String(); got != want {
			t.Errorf("Version(%d) = %q, want %q", uint8(v), got, want)
		}
	}
}
