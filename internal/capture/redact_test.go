package capture

import (
	"bytes"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// Secrets in the tables below are written as bytes of these; they become zeros.
const s20 = "5ec1e75ec1e75ec1e75ec1e75ec1e75ec1e75ec1"

// password is a session with the password 5ec1e7, then blanked.
const (
	password   = "0000000c 40000009 0000 01 0003 5ec1e7"
	noPassword = "0000000c 40000009 0000 01 0003 000000"
	hmac       = "0000001d 02000000 0004 5ec1e75e 21 0010 5ec1e75ec1e75ec1e75ec1e75ec1e75e"
	noHMAC     = "0000001d 02000000 0004 00000000 21 0010 00000000000000000000000000000000"
)

// exchange is a command and its response, each with what is left of it. The size
// in the headers is filled in.
type exchange struct {
	name         string
	cmd, cmdLeft string
	rsp, rspLeft string
}

var exchanges20 = []exchange{
	{name: "Startup",
		cmd: "8001 ???????? 00000144 0001", cmdLeft: "8001 ???????? 00000144 0001",
		rsp: "8001 ???????? 00000000", rspLeft: "8001 ???????? 00000000"},
	{name: "GetRandom",
		cmd: "8001 ???????? 0000017b 0004", cmdLeft: "8001 ???????? 0000017b 0004",
		rsp: "8001 ???????? 00000000 0004 5ec1e75e", rspLeft: "8001 ???????? 00000000 0004 00000000"},
	{name: "StirRandom",
		cmd: "8001 ???????? 00000146 0004 5ec1e75e", cmdLeft: "8001 ???????? 00000146 0004 00000000",
		rsp: "8001 ???????? 00000000", rspLeft: "8001 ???????? 00000000"},
	{name: "Create with a password and a secret to seal",
		cmd: "8002 ???????? 00000153 80000000" + password +
			"000a 0003 5ec1e7 0003 5ec1e7" + "0014 0008 000b 00000052 0000 0010 0006 5ec1e75ec1e7" +
			"0003 5ec1e7" + "00000001 000b 03 000080",
		cmdLeft: "8002 ???????? 00000153 80000000" + noPassword +
			"000a 00000000000000000000" + "0014 0008 000b 00000052 0000 0010 0000 000000000000" +
			"0003 000000" + "00000001 000b 03 000080",
		rsp: "8002 ???????? 00000000 0000002b" +
			"0004 5ec1e75e" + "000e 0008 000b 00000052 0000 0010 0000" + "0003 5ec1e7" + "0003 5ec1e7" + "8021 40000001 0003 5ec1e7" +
			"0003 5ec1e7 01 0003 5ec1e7",
		rspLeft: "8002 ???????? 00000000 0000002b" +
			"0004 00000000" + "000e 0008 000b 00000052 0000 0010 0000" + "0003 000000" + "0003 000000" + "8021 40000001 0003 000000" +
			"0003 000000 01 0003 000000"},
	{name: "CreatePrimary keeps the parameters of an RSA key and its public part, not what was chosen for it",
		cmd: "8002 ???????? 00000131 40000001" + password +
			"0004 0000 0000" + "001f 0001 000b 00030072 0000 0006 0080 0043 0010 0800 00000000 0005 5ec1e75ec1" + "0000 00000000",
		cmdLeft: "8002 ???????? 00000131 40000001" + noPassword +
			"0004 00000000" + "001f 0001 000b 00030072 0000 0006 0080 0043 0010 0800 00000000 0000 0000000000" + "0000 00000000",
		rsp: "8002 ???????? 00000000 80000000 00000038" +
			"001f 0001 000b 00030072 0000 0006 0080 0043 0010 0800 00000000 0005 abcdefabcd" +
			"0002 5ec1 0002 5ec1 8021 40000001 0002 5ec1 0003 0badbe" + "0000 01 0000",
		rspLeft: "8002 ???????? 00000000 80000000 00000038" +
			"001f 0001 000b 00030072 0000 0006 0080 0043 0010 0800 00000000 0005 abcdefabcd" +
			"0002 0000 0002 0000 8021 40000001 0002 0000 0003 0badbe" + "0000 01 0000"},
	{name: "ReadPublic of an ECC key",
		cmd: "8001 ???????? 00000173 81000001", cmdLeft: "8001 ???????? 00000173 81000001",
		rsp:     "8001 ???????? 00000000 001c 0023 000b 00030072 0000 0010 0018 000b 0003 0010 0002 abcd 0002 ef01" + "0002 000b 0002 000b",
		rspLeft: "8001 ???????? 00000000 001c 0023 000b 00030072 0000 0010 0018 000b 0003 0010 0002 abcd 0002 ef01" + "0002 000b 0002 000b"},
	{name: "LoadExternal of a secret HMAC key: its unique is a digest of it",
		cmd:     "8001 ???????? 00000167 000c 0008 0000 0003 5ec1e7 0003 5e" + "0013 0008 000b 00000052 0000 0005 000b 0003 5ec1e7" + "40000007",
		cmdLeft: "8001 ???????? 00000167 000c 000000000000000000000000" + "0013 0008 000b 00000052 0000 0005 000b 0000 000000" + "40000007",
		rsp:     "8001 ???????? 00000000 80000001 0003 000bab", rspLeft: "8001 ???????? 00000000 80000001 0003 000bab"},
	{name: "Unseal",
		cmd: "8002 ???????? 0000015e 80000001" + password, cmdLeft: "8002 ???????? 0000015e 80000001" + noPassword,
		rsp: "8002 ???????? 00000000 00000005 0003 5ec1e7 0000 01 0000", rspLeft: "8002 ???????? 00000000 00000005 0003 000000 0000 01 0000"},
	{name: "NV_DefineSpace keeps what is public of the index",
		cmd: "8002 ???????? 0000012a 40000001" + hmac + "0003 5ec1e7" + "000e 01500016 000b 00060006 0000 0010",
		// The session has the bit "decrypt": the first parameter is encrypted, its size is not.
		cmdLeft: "8002 ???????? 0000012a 40000001" + noHMAC + "0003 000000" + "000e 01500016 000b 00060006 0000 0010",
		rsp:     "8002 ???????? 00000000 00000000 0004 5ec1e75e 01 0004 5ec1e75e", rspLeft: "8002 ???????? 00000000 00000000 0004 00000000 01 0004 00000000"},
	{name: "NV_Write",
		cmd: "8002 ???????? 00000137 01500016 01500016" + password + "0003 5ec1e7 0005", cmdLeft: "8002 ???????? 00000137 01500016 01500016" + noPassword + "0003 000000 0005",
		rsp: "8002 ???????? 00000000 00000000 0000 01 0000", rspLeft: "8002 ???????? 00000000 00000000 0000 01 0000"},
	{name: "NV_Read",
		cmd: "8002 ???????? 0000014e 01500016 01500016" + password + "0003 0005", cmdLeft: "8002 ???????? 0000014e 01500016 01500016" + noPassword + "0003 0005",
		rsp: "8002 ???????? 00000000 00000005 0003 5ec1e7 0000 01 0000", rspLeft: "8002 ???????? 00000000 00000005 0003 000000 0000 01 0000"},
	{name: "two sessions",
		cmd:     "8002 ???????? 00000136 01500016 01500016 00000018 40000009 0000 01 0003 5ec1e7 40000009 0003 5ec1e7 01 0000 0002 5ec1",
		cmdLeft: "8002 ???????? 00000136 01500016 01500016 00000018 40000009 0000 01 0003 000000 40000009 0003 000000 01 0000 0002 0000",
		rsp:     "8002 ???????? 00000000 00000000 0001 5e 01 0000 0000 00 0001 5e", rspLeft: "8002 ???????? 00000000 00000000 0001 00 01 0000 0000 00 0001 00"},
	{name: "an encrypted response whose first field has no secret otherwise",
		cmd:     "8002 ???????? 00000173 81000001 0000000a 02000000 0000 41 0001 5e",
		cmdLeft: "8002 ???????? 00000173 81000001 0000000a 02000000 0000 41 0001 00",
		rsp:     "8002 ???????? 00000000 0000000c 0002 5ec1 0002 000b 0002 000c 0000 01 0000", rspLeft: "8002 ???????? 00000000 0000000c 0002 0000 0002 000b 0002 000c 0000 01 0000"},
	{name: "PCR_Read",
		cmd: "8001 ???????? 0000017e 00000001 0004 03 010000", cmdLeft: "8001 ???????? 0000017e 00000001 0004 03 010000",
		rsp: "8001 ???????? 00000000 00000015 00000001 0004 03 010000 00000001 0003 abcdef", rspLeft: "8001 ???????? 00000000 00000015 00000001 0004 03 010000 00000001 0003 abcdef"},
	{name: "PCR_Extend",
		cmd:     "8002 ???????? 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 0004 00112233445566778899aabbccddeeff00112233",
		cmdLeft: "8002 ???????? 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 0004 00112233445566778899aabbccddeeff00112233",
		rsp:     "8002 ???????? 00000000 00000000 0000 00 0000", rspLeft: "8002 ???????? 00000000 00000000 0000 00 0000"},
	{name: "GetCapability",
		cmd: "8001 ???????? 0000017a 00000006 00000100 00000001", cmdLeft: "8001 ???????? 0000017a 00000006 00000100 00000001",
		rsp: "8001 ???????? 00000000 01 00000006 00000001 00000100 322e3000", rspLeft: "8001 ???????? 00000000 01 00000006 00000001 00000100 322e3000"},
	{name: "StartAuthSession",
		cmd:     "8001 ???????? 00000176 40000007 40000007 0003 5ec1e7 0002 5ec1 00 0006 0080 0043 000b",
		cmdLeft: "8001 ???????? 00000176 40000007 40000007 0003 000000 0002 0000 00 0006 0080 0043 000b",
		rsp:     "8001 ???????? 00000000 02000000 0003 5ec1e7", rspLeft: "8001 ???????? 00000000 02000000 0003 000000"},
	{name: "ContextSave",
		cmd: "8001 ???????? 00000162 80000000", cmdLeft: "8001 ???????? 00000162 80000000",
		rsp: "8001 ???????? 00000000 0000000000000007 80000000 40000001 0003 5ec1e7", rspLeft: "8001 ???????? 00000000 0000000000000007 80000000 40000001 0003 000000"},

	// Messages of an unknown layout.
	{name: "behind a prefix",
		cmd: "00000008 03 0000000c 8001 ???????? 0000017b 0004", cmdLeft: "00000008 03 0000000c 8001 ???????? 0000017b 0004",
		rsp: "8001 ???????? 00000000 0004 5ec1e75e", rspLeft: "8001 ???????? 00000000 0004 00000000"},
	{name: "an unknown command",
		cmd: "8001 ???????? 20000001 5ec1e7", cmdLeft: "8001 ???????? 20000001 000000",
		rsp: "8001 ???????? 00000000 0001 5e", rspLeft: "8001 ???????? 00000000 0000 00"},
	{name: "more behind the parameters",
		cmd: "8001 ???????? 0000017b 0004 5ec1e7", cmdLeft: "8001 ???????? 0000017b 0000 000000",
		rsp: "8001 ???????? 000001d5", rspLeft: "8001 ???????? 000001d5"},
	{name: "a wrong size",
		cmd: "8001 0000000c 0000017a 0004 5ec1e7", cmdLeft: "8001 0000000c 0000017a 0000 000000",
		rsp: "8001 ???????? 00000142", rspLeft: "8001 ???????? 00000142"},
	{name: "a piece of a command",
		cmd: "5ec1e75ec1e75ec1e75ec1e7", cmdLeft: "000000000000000000000000",
		rsp: "00c4 ???????? 0000001e", rspLeft: "00c4 ???????? 0000001e"},
	{name: "less than a header",
		cmd: "80015ec1e7", cmdLeft: "0000000000",
		rsp: "8001 ???????? 0000009a", rspLeft: "8001 ???????? 0000009a"},
	{name: "a size that goes beyond the end",
		cmd: "8001 ???????? 00000146 0005 5ec1e75e", cmdLeft: "8001 ???????? 00000146 0000 00000000",
		rsp: "8001 ???????? 00000000", rspLeft: "8001 ???????? 00000000"},
	{name: "authorisations that go beyond the end",
		cmd: "8002 ???????? 0000015e 80000001 0000000d 40000009 0000 01 0003 5ec1e7", cmdLeft: "8002 ???????? 0000015e 00000000 00000000 00000000 0000 00 0000 000000",
		rsp: "8002 ???????? 00000000 00000005 0003 5ec1e7 0000 01 0000", rspLeft: "8002 ???????? 00000000 00000000 0000 000000 0000 00 0000"},
	{name: "a handle is missing: a password is where it should be",
		cmd: "8002 ???????? 00000129 0004 5ec1e75e", cmdLeft: "8002 ???????? 00000129 0000 00000000",
		rsp: "8001 ???????? 00000084", rspLeft: "8001 ???????? 00000084"},
	{name: "a response that is not what the command promises",
		cmd: "8001 ???????? 0000017b 0004", cmdLeft: "8001 ???????? 0000017b 0004",
		rsp: "8001 ???????? 00000000 0003 5ec1e75e", rspLeft: "8001 ???????? 00000000 0000 00000000"},
	{name: "a failure with something behind it",
		cmd: "8001 ???????? 0000017b 0004", cmdLeft: "8001 ???????? 0000017b 0004",
		rsp: "8001 ???????? 00000101 0004 5ec1e75e", rspLeft: "8001 ???????? 00000101 0000 00000000"},
	{name: "a TPM 1.2 command",
		cmd: "00c1 ???????? 00000046 00000004", cmdLeft: "00c1 ???????? 00000046 00000000",
		rsp: "00c4 ???????? 0000001e", rspLeft: "00c4 ???????? 0000001e"},
}

// auth12 is an authorisation of a command, rsp12 one of a response.
const (
	auth12     = "00000005" + s20 + "01" + s20
	authLeft12 = "00000005" + zero20 + "01" + zero20
	rsp12      = s20 + "01" + s20
	rspLeft12  = zero20 + "01" + zero20
	zero20     = "0000000000000000000000000000000000000000"
	one20      = "1111111111111111111111111111111111111111"
)

var exchanges12 = []exchange{
	{name: "Startup",
		cmd: "00c1 ???????? 00000099 0001", cmdLeft: "00c1 ???????? 00000099 0001",
		rsp: "00c4 ???????? 00000000", rspLeft: "00c4 ???????? 00000000"},
	{name: "OSAP",
		cmd: "00c1 ???????? 0000000b 0002 40000000" + s20, cmdLeft: "00c1 ???????? 0000000b 0002 40000000" + zero20,
		rsp: "00c4 ???????? 00000000 00000005" + s20 + s20, rspLeft: "00c4 ???????? 00000000 00000005" + zero20 + zero20},
	{name: "NV_WriteValue with an authorisation",
		cmd: "00c2 ???????? 000000cd 00001234 00000000 00000003 5ec1e7" + auth12, cmdLeft: "00c2 ???????? 000000cd 00001234 00000000 00000003 000000" + authLeft12,
		rsp: "00c5 ???????? 00000000" + rsp12, rspLeft: "00c5 ???????? 00000000" + rspLeft12},
	{name: "NV_ReadValue",
		cmd: "00c1 ???????? 000000cf 00001234 00000000 00000003", cmdLeft: "00c1 ???????? 000000cf 00001234 00000000 00000003",
		rsp: "00c4 ???????? 00000000 00000003 5ec1e7", rspLeft: "00c4 ???????? 00000000 00000003 000000"},
	{name: "NV_DefineSpace",
		cmd: "00c2 ???????? 000000cc 0018 00001234 0003 000000 1f" + one20 + "0003 000000 1f" + one20 +
			"0017 00000002 00 00 00 00000008" + s20 + auth12,
		cmdLeft: "00c2 ???????? 000000cc 0018 00001234 0003 000000 1f" + one20 + "0003 000000 1f" + one20 +
			"0017 00000002 00 00 00 00000008" + zero20 + authLeft12,
		rsp: "00c5 ???????? 00000000" + rsp12, rspLeft: "00c5 ???????? 00000000" + rspLeft12},
	{name: "Unseal, two authorisations",
		cmd:     "00c3 ???????? 00000018 40000000 01010000 00000000 00000003 5ec1e7" + auth12 + auth12,
		cmdLeft: "00c3 ???????? 00000018 40000000 00000000 00000000 00000000 000000" + authLeft12 + authLeft12,
		rsp:     "00c6 ???????? 00000000 00000003 5ec1e7" + rsp12 + rsp12, rspLeft: "00c6 ???????? 00000000 00000003 000000" + rspLeft12 + rspLeft12},
	{name: "Extend",
		cmd: "00c1 ???????? 00000014 0000000a" + one20, cmdLeft: "00c1 ???????? 00000014 0000000a" + one20,
		rsp: "00c4 ???????? 00000000" + one20, rspLeft: "00c4 ???????? 00000000" + one20},
	{name: "GetCapability",
		cmd: "00c1 ???????? 00000065 00000005 00000004 00000103", cmdLeft: "00c1 ???????? 00000065 00000005 00000004 00000103",
		rsp: "00c4 ???????? 00000000 00000004 49424d00", rspLeft: "00c4 ???????? 00000000 00000004 49424d00"},
	{name: "TakeOwnership, which is known in part",
		cmd:     "00c2 ???????? 0000000d 0005 00000003 5ec1e7 00000003 5ec1e7 01010000 5ec1e7" + auth12,
		cmdLeft: "00c2 ???????? 0000000d 0005 00000003 000000 00000003 000000 00000000 000000" + authLeft12,
		rsp:     "00c5 ???????? 00000000 01010000 5ec1e7" + rsp12, rspLeft: "00c5 ???????? 00000000 00000000 000000" + rspLeft12},
	{name: "an unknown command with an authorisation",
		cmd: "00c2 ???????? 000000e7 5ec1e7" + auth12, cmdLeft: "00c2 ???????? 000000e7 000000" + "00000000" + zero20 + "00" + zero20,
		rsp: "00c5 ???????? 00000000 5ec1e7" + rsp12, rspLeft: "00c5 ???????? 00000000 000000" + zero20 + "00" + zero20},
	{name: "too short for its authorisation",
		cmd: "00c2 ???????? 00000046 00000004", cmdLeft: "00c2 ???????? 00000046 00000000",
		rsp: "00c4 ???????? 00000019", rspLeft: "00c4 ???????? 00000019"},
	{name: "what would be a prefix with a TPM 2.0",
		cmd: "00000008 5e 5ec1e75e 5ec1e7", cmdLeft: "00000000 00 00000000 000000",
		rsp: "00c4 ???????? 0000001e", rspLeft: "00c4 ???????? 0000001e"},
}

// message decodes a message of the tables and fills in its size.
func message(t *testing.T, s string) []byte {
	t.Helper()
	b := harness.Unhex(strings.ReplaceAll(s, "?", "0"))
	at := strings.Index(strings.ReplaceAll(s, " ", ""), "????????") / 2
	if strings.Contains(s, "?") {
		n := len(b) - at + 2
		copy(b[at:], []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return b
}

// TestExchanges checks the redacted form of commands and responses, and that the originals do not
// change.
func TestExchanges(t *testing.T) {
	for v, list := range map[tpm.Version][]exchange{tpm.V20: exchanges20, tpm.V12: exchanges12} {
		f := NewRedactor(v)
		for _, e := range list {
			for _, g := range []struct {
				what     string
				f        func([]byte) []byte
				in, want string
			}{{"command", f.Command, e.cmd, e.cmdLeft}, {"response", f.Response, e.rsp, e.rspLeft}} {
				in := message(t, g.in)
				before := bytes.Clone(in)
				got, want := g.f(in), message(t, g.want)
				if !bytes.Equal(got, want) {
					t.Errorf("TPM %s, %s: %s\n%x becomes\n%x, want\n%x", v, e.name, g.what, in, got, want)
				}
				if !bytes.Equal(in, before) {
					t.Errorf("TPM %s, %s: %s was changed", v, e.name, g.what)
				}
			}
		}
	}
}

// TestStrayResponse checks a response without a command before it.
func TestStrayResponse(t *testing.T) {
	f := NewRedactor(tpm.V20)
	rsp := message(t, "8001 ???????? 00000000 01 5ec1e75e")
	want := message(t, "8001 ???????? 00000000 00 00000000")
	if got := f.Response(rsp); !bytes.Equal(got, want) {
		t.Errorf("Response(%x) = %x, want %x", rsp, got, want)
	}
	f.Command(message(t, "8001 ???????? 0000017a 00000006 00000100 00000001"))
	f.Response(rsp)
	if got := f.Response(rsp); !bytes.Equal(got, want) {
		t.Errorf("a second response = %x, want %x", got, want)
	}
}

// TestLayouts checks that layouts contain only letters of fields, and "*" and "~" only at the end.
func TestLayouts(t *testing.T) {
	for v, table := range map[tpm.Version]map[tpm.Code]layout{tpm.V12: commands12(), tpm.V20: commands20()} {
		for code, l := range table {
			for _, s := range []string{l.in, l.out} {
				if strings.Trim(s, "1248hxBbNnACDLVPMSTY*~") != "" || strings.ContainsAny(s[:max(0, len(s)-1)], "*~") {
					t.Errorf("TPM %s, command 0x%x: layout %q", v, uint32(code), s)
				}
			}
			if l.handles > 3 || l.handle > 1 {
				t.Errorf("TPM %s, command 0x%x: %d handles, %d in the response", v, uint32(code), l.handles, l.handle)
			}
		}
	}
}

// FuzzFilter: whatever comes, the copy is as long, each byte of it is the
// message's or zero, a header stays, and a redacted message stays as it is.
func FuzzFilter(f *testing.F) {
	for is12, list := range map[bool][]exchange{false: exchanges20, true: exchanges12} {
		for _, e := range list {
			cmd, _ := hex.DecodeString(strings.NewReplacer(" ", "", "?", "0").Replace(e.cmd))
			rsp, _ := hex.DecodeString(strings.NewReplacer(" ", "", "?", "0").Replace(e.rsp))
			f.Add(is12, cmd, rsp)
		}
	}
	for is12, file := range map[bool]string{false: "traffic20.txt", true: "traffic12.txt"} {
		text, err := os.ReadFile("testdata/" + file)
		if err != nil {
			f.Fatal(err)
		}
		var cmd []byte
		for line := range strings.Lines(string(text)) {
			b, _ := hex.DecodeString(strings.TrimSpace(line[2:]))
			if line[0] == '>' {
				cmd = b
			} else {
				f.Add(is12, cmd, b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, is12 bool, cmd, rsp []byte) {
		v := tpm.V20
		if is12 {
			v = tpm.V12
		}
		setSize(v, cmd)
		setSize(tpm.V12, rsp)
		one, two := NewRedactor(v), NewRedactor(v)
		c, r := one.Command(cmd), one.Response(rsp)
		for _, g := range [][2][]byte{{cmd, c}, {rsp, r}} {
			in, out := g[0], g[1]
			if len(in) != len(out) {
				t.Fatalf("%d bytes became %d", len(in), len(out))
			}
			for i := range in {
				if out[i] != in[i] && out[i] != 0 {
					t.Fatalf("byte %d is neither what it was nor zero: %x, %x", i, in, out)
				}
			}
			if h, ok := tpm.ParseHeader(in); ok && slices.Contains(tags, h.Tag) && !bytes.Equal(in[:tpm.HeaderSize], out[:tpm.HeaderSize]) {
				t.Fatalf("the header of %x is gone: %x", in, out)
			}
		}
		if again := two.Command(c); !bytes.Equal(again, c) {
			t.Fatalf("the command\n%x becomes\n%x and then\n%x", cmd, c, again)
		}
		if again := two.Response(r); !bytes.Equal(again, r) {
			t.Fatalf("the response\n%x becomes\n%x and then\n%x", rsp, r, again)
		}
	})
}

// setSize makes the size in the header right, so that a fuzzer gets beyond it.
func setSize(v tpm.Version, b []byte) {
	at := 2
	if tpm.Prefixed(v, b) {
		at += tpm.PrefixSize
	}
	if n := len(b) - at + 2; len(b) >= at+4 {
		copy(b[at:], []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
}
