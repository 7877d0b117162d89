package ctrl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestRequests checks that each row of the protocol has golden bytes for the server and for
// the client, and is described in the header and in the manual page for C programs, and
// that these describe no other request.
func TestRequests(t *testing.T) {
	header, err := os.ReadFile("../../../include/swtpm/tpm_ioctl.h")
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../../man/swtpm_ioctls.3")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, r := range Requests {
		want = append(want, "CMD_"+r.Name)
		code := fmt.Sprintf("%08x", uint32(r.Code))
		if i > 0 && r.Code <= Requests[i-1].Code {
			t.Errorf("%s is not in the order of the codes", r)
		}
		if !slices.ContainsFunc(golden, func(g goldenBytes) bool { return strings.HasPrefix(g.in, code) && strings.HasPrefix(g.name, r.Name) }) {
			t.Errorf("%s: golden_test.go has no request %s", r, code)
		}
		if r.Code != SetDataFD && !slices.ContainsFunc(calls, func(c clientGolden) bool { return strings.HasPrefix(c.turn[0].req, code) }) {
			t.Errorf("%s: client_test.go has no request %s", r, code)
		}
		for _, name := range []string{"CMD_", "PTM_"} {
			if !regexp.MustCompile(`\b` + name + r.Name + `\b`).Match(header) {
				t.Errorf("tpm_ioctl.h has no %s%s", name, r)
			}
			if !regexp.MustCompile(`(?m)^\.BR .*\b` + name + r.Name + `\b`).Match(manual) {
				t.Errorf("swtpm_ioctls.3 has no entry for %s%s", name, r)
			}
		}
	}
	for _, name := range regexp.MustCompile(`\bCMD_[A-Z_]+\b`).FindAllString(string(header)+string(manual), -1) {
		if !slices.Contains(want, name) {
			t.Errorf("the header or the manual page has %s, the table has not", name)
		}
	}
}

// TestCarriers checks that the replies to all requests that need no carrier differ only in the
// byte order.
func TestCarriers(t *testing.T) {
	for _, r := range Requests {
		f := &fake{version: tpm.V20, blob: harness.Unhex("b10b"), info: "{}"}
		big, err := r.Do(f, binary.BigEndian, make([]byte, r.reqSize))
		native, err2 := r.Do(f, binary.NativeEndian, make([]byte, r.reqSize))
		if len(big) != len(native) || binary.BigEndian.Uint32(big) != binary.NativeEndian.Uint32(native) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Errorf("%s: reply %x, %v; in native order %x, %v", r, big, err, native, err2)
		}
		if short, err := r.Do(f, binary.BigEndian, make([]byte, max(0, r.reqSize-1))); r.reqSize > 0 && (err != tpm.BadParameter || !bytes.Equal(short, []byte{0, 0, 0, 3})) {
			t.Errorf("%s with a short body: reply %x, %v, want %v", r, short, err, tpm.BadParameter)
		}
		if failure := r.failure(binary.BigEndian); len(failure) > len(big) && r.Code != GetTPMEstablished && err == nil {
			t.Errorf("%s: the reply of a failure has %d bytes, that of success %d", r, len(failure), len(big))
		}
	}
}
