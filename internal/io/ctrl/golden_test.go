package ctrl

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// The results that replies begin with.
const (
	ok  = "00000000"
	bp  = "00000003"
	bo  = "0000000a"
	bl  = "0000003d"
	ioe = "0000001f"
	no  = "closed"
)

// goldenBytes is a request and its replies while the TPM is off and on; took has the calls
// of the TPM if the request is executed. A slash separates pieces that are sent one after
// the other.
type goldenBytes struct{ name, in, off, on, took string }

// golden are requests whose replies test/compare checks against the reference.
var golden = []goldenBytes{
	{"GET_CAPABILITY", "00000001", "00000000 0001ffff", "00000000 0001ffff", ""},
	{"GET_CAPABILITY, body", "00000001 01020304", "00000000 0001ffff", "00000000 0001ffff", ""},
	{"GET_CAPABILITY in pieces", "00/0000/01", "00000000 0001ffff", "00000000 0001ffff", ""},
	{"GET_CAPABILITY twice at once", "00000001 00000001", "00000000 0001ffff", "00000000 0001ffff", ""},
	{"half a code", "000000", no, no, ""},

	{"INIT", "00000002 00000000", ok, ok, "Init(false)"},
	{"INIT in pieces", "00000002/0000/0000", ok, ok, "Init(false)"},
	{"INIT, delete", "00000002 00000001", ok, ok, "Init(true)"},
	{"INIT, unknown flags", "00000002 fffffffe", ok, ok, "Init(false)"},
	{"INIT, long", "00000002 00000000 00", bp, bp, ""},
	{"INIT, half", "00000002 0000", no, no, ""},

	{"SHUTDOWN, body", "00000003 00", bp, bp, ""},

	{"GET_TPMESTABLISHED", "00000004", bo, "00000000 01 000000", "Established"},
	{"GET_TPMESTABLISHED, body", "00000004 00", bo, bp, ""},

	{"SET_LOCALITY", "00000005 04", ok, ok, "SetLocality(4)"},
	{"SET_LOCALITY, padded", "00000005 03000000", ok, ok, "SetLocality(3)"},
	{"SET_LOCALITY in pieces", "00000005/02", ok, ok, "SetLocality(2)"},
	{"SET_LOCALITY 5", "00000005 05", bl, bl, ""},
	{"SET_LOCALITY, half", "00000005", no, no, ""},

	{"HASH_START", "00000006", bo, ok, "HashStart"},
	{"HASH_START, body", "00000006 00", bo, bp, ""},
	{"HASH_DATA of nothing", "00000007 00000000", bo, ok, ""},
	{"HASH_DATA", "00000007 00000003 010203", bo, ok, ""},
	{"HASH_DATA in pieces", "00000007/000000/03 01/02/03", bo, ok, ""},
	{"HASH_DATA, surplus", "00000007 00000003 01020304", bo, bp, ""},
	{"HASH_DATA, half", "00000007 00000003 0102", no, no, ""},
	{"HASH_DATA, half a length", "00000007 000000", no, no, ""},
	{"HASH_DATA, a buffer", "00000007 00001000 00*4096", bo, ok, ""},
	{"HASH_DATA, a buffer and a byte", "00000007 00001001 00*4097", bo, ok, ""},
	{"HASH_DATA, many buffers", "00000007 00010000 00*65536", bo, ok, ""},
	{"HASH_DATA, many pieces", "00000007 00003000 00*4096/00*4096/00*4096", bo, ok, ""},
	{"HASH_END", "00000008", bo, ok, "HashEnd"},
	{"HASH_END, body", "00000008 00", bo, bp, ""},

	{"CANCEL_TPM_CMD", "00000009", bo, ok, "Cancel"},
	{"CANCEL_TPM_CMD, body", "00000009 00", bo, bp, ""},

	{"STORE_VOLATILE", "0000000a", bo, ok, "StoreVolatile"},
	{"STORE_VOLATILE, body", "0000000a 00", bo, bp, ""},

	{"RESET_TPMESTABLISHED", "0000000b 03", bo, ok, "ResetEstablished(3)"},
	{"RESET_TPMESTABLISHED, padded", "0000000b 04000000", bo, ok, "ResetEstablished(4)"},
	{"RESET_TPMESTABLISHED 5", "0000000b 05", bo, bl, ""},
	{"RESET_TPMESTABLISHED, half", "0000000b", no, no, ""},

	{"GET_STATEBLOB", "0000000c 00000000 00000001 00000000", bo, "00000000 00000002 00000006 00000006 b10bb10bb10b", "State(1,false)"},
	{"GET_STATEBLOB, plain", "0000000c ffffffff 00000002 00000000", bo, "00000000 00000000 00000006 00000006 b10bb10bb10b", "State(2,true)"},
	{"GET_STATEBLOB, offset", "0000000c 00000001 00000001 00000004", bo, "00000000 00000000 00000002 00000002 b10b", "State(1,true)"},
	{"GET_STATEBLOB, at the end", "0000000c 00000001 00000001 00000006", bo, "00000000 00000000 00000000 00000000", "State(1,true)"},
	{"GET_STATEBLOB, after the end", "0000000c 00000001 00000001 ffffffff", bo, "00000000 00000000 00000000 00000000", "State(1,true)"},
	{"GET_STATEBLOB, savestate", "0000000c 00000001 00000003 00000000", bo, "00000800 00000000 00000000 00000000", "State(3,true) ReleaseStorage"},
	{"GET_STATEBLOB, no such", "0000000c 00000001 00000004 00000000", bo, "00000009 00000000 00000000 00000000", "State(4,true)"},
	{"GET_STATEBLOB, surplus", "0000000c 00000001 00000001 00000006 00", bo, "00000000 00000000 00000000 00000000", "State(1,true)"},
	{"GET_STATEBLOB in pieces", "0000000c/00000001/00000001 00000006", bo, "00000000 00000000 00000000 00000000", "State(1,true)"},
	{"GET_STATEBLOB, half", "0000000c 00000001 00000001 000000", no, no, ""},

	{"SET_STATEBLOB", "0000000d 00000000 00000001 00000003 010203", ok, bo, "Prepare SetState(1,false,010203)"},
	{"SET_STATEBLOB in two writes", "0000000d 00000000 00000002 00000003/010203", ok, bo, "Prepare SetState(2,false,010203)"},
	{"SET_STATEBLOB, encrypted", "0000000d 00000002 00000002 00000001 01", ok, bo, "Prepare SetState(2,true,01)"},
	{"SET_STATEBLOB, empty", "0000000d 00000000 00000003 00000000", ok, bo, "Prepare SetState(3,false,)"},
	{"SET_STATEBLOB, no such", "0000000d 00000000 00000000 00000001 01", bp, bo, "Prepare"},
	{"SET_STATEBLOB, surplus", "0000000d 00000000 00000001 00000003 01020304", bp, bo, "Prepare"},
	{"SET_STATEBLOB, half", "0000000d 00000000 00000001 00000003 0102", no, no, ""},
	{"SET_STATEBLOB, half a header", "0000000d 00000000 00000001 000000", no, no, ""},
	{"SET_STATEBLOB, a buffer", "0000000d 00000000 00000001 00000ff8 00*4088", ok, bo, "Prepare SetState(1,false,4088 bytes)"},
	{"SET_STATEBLOB, more", "0000000d 00000000 00000001 00000ff9 00*4089", ok, bo, "Prepare SetState(1,false,4089 bytes)"},
	{"SET_STATEBLOB, two writes and more", "0000000d 00000000 00000001 00010000/00*65536", ok, bo, "Prepare SetState(1,false,65536 bytes)"},
	{"SET_STATEBLOB, the largest", "0000000d 00000000 00000001 00080000/00*524288", ok, bo, "Prepare SetState(1,false,524288 bytes)"},
	{"SET_STATEBLOB, too large", "0000000d 00000000 00000001 00080001/00*524289", "00000009", bo, "Prepare"},

	{"STOP, body", "0000000e 00", bp, bp, ""},

	{"GET_CONFIG", "0000000f", "00000000 00000002", "00000000 00000002", ""},
	{"GET_CONFIG, body", "0000000f 00", bp, bp, ""},

	{"SET_DATAFD, none", "00000010", bp, bp, ""},
	{"SET_DATAFD, none, body", "00000010 00", bp, bp, ""},

	{"SET_BUFFERSIZE, ask", "00000011 00000000", "00000000 00000abc 0000000a 00001000", "00000000 00000abc 0000000a 00001000", "BufferSize(0)"},
	{"SET_BUFFERSIZE", "00000011 00001000", "00000000 00000abc 0000000a 00001000", bo, "BufferSize(4096)"},
	{"SET_BUFFERSIZE, surplus", "00000011 00000000 00", "00000000 00000abc 0000000a 00001000", "00000000 00000abc 0000000a 00001000", "BufferSize(0)"},
	{"SET_BUFFERSIZE, half", "00000011 000000", bp, bp, ""},

	{"GET_INFO", "00000012 0000000000000007 00000000 00000000", "00000000 00000003 00000003 7b7d00", "00000000 00000003 00000003 7b7d00", "Info(7)"},
	{"GET_INFO, offset", "00000012 ffffffffffffffff 00000001 00000000", "00000000 00000003 00000002 7d00", "00000000 00000003 00000002 7d00", "Info(ffffffffffffffff)"},
	{"GET_INFO, at the NUL", "00000012 0000000000000000 00000002 00000000", bp, bp, "Info(0)"},
	{"GET_INFO, behind", "00000012 0000000000000000 ffffffff 00000000", bp, bp, "Info(0)"},
	{"GET_INFO, half", "00000012 0000000000000007 00000000 000000", bp, bp, ""},

	{"LOCK_STORAGE", "00000013 0000012c", ok, ok, "LockStorage(300)"},
	{"LOCK_STORAGE, surplus", "00000013 00000000 00", ok, ok, "LockStorage(0)"},
	{"LOCK_STORAGE, half", "00000013 000000", bp, bp, ""},

	{"0", "00000000", bo, bo, ""},
	{"0x14, body", "00000014 0102030405", bo, bo, ""},
	{"0xffffffff", "ffffffff", bo, bo, ""},
}

// TestRestOfARefusedBodyIsNoRequest checks that the connection ends if a blob is refused before
// the client has sent all of it: the client may still send the rest, which could otherwise be read
// as SHUTDOWN.
func TestRestOfARefusedBodyIsNoRequest(t *testing.T) {
	for _, state := range []string{"off", "on"} {
		b := newStrictBench(t, tpm.V20)
		b.tpm.Set(state == "on")
		want := map[string]string{"off": "00000009", "on": bo}[state] // too large; not while on
		c := b.connect(t, unix.SOCK_STREAM)
		if got := c.ask(t, "0000000d 00000000 00000001 00080001 00*4088", 4); got != want {
			t.Errorf("%s: reply = %s, want %s", state, got, want)
		}
		if got := c.ask(t, "", 8); got != no {
			t.Errorf("%s: after the reply comes %s, want the end of the connection", state, got)
		}
	}
}

// TestGolden checks the reply to each request, byte by byte, while the TPM is off, on, and after
// STOP.
func TestGolden(t *testing.T) {
	for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
		for _, state := range []string{"off", "on", "after STOP"} {
			t.Run(v.String()+" "+state, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, v)
				c := b.connect(t, unix.SOCK_STREAM)
				for _, g := range golden {
					c = b.golden(t, c, state, g.name, g.in, g.off, g.on, g.took)
				}
			})
		}
	}
}

// golden tries one request and returns a connection for the next.
func (b *bench) golden(t *testing.T, c peer, state, name, in, off, on, took string) peer {
	t.Helper()
	want := off
	b.tpm.Set(state != "off")
	if state == "on" {
		want = on
	} else if state == "after STOP" && c.ask(t, "0000000e", 4) != ok {
		t.Errorf("%s: STOP failed", name)
	}
	b.tpm.Took()

	if b.tpm.version == tpm.V12 {
		want = strings.ReplaceAll(want, "0001ffff", "00017fff")
	}
	want = strings.ReplaceAll(want, " ", "")
	if want == no {
		if b.tpm.version == tpm.V12 {
			return c // the wait takes half a second
		}
		strict := newStrictBench(t, b.tpm.version)
		strict.tpm.Set(state != "off")
		half := strict.connect(t, unix.SOCK_STREAM)
		if state == "after STOP" && half.ask(t, "0000000e", 4) != ok {
			t.Errorf("%s: STOP failed", name)
		}
		if got := half.ask(t, in, 4); got != no {
			t.Errorf("%s: reply = %s, want none", name, got)
		}
		return c
	}
	if got := c.ask(t, in, len(want)/2); got != want {
		t.Errorf("%s: reply = %s, want %s", name, got, want)
	}
	// The next reply shows that this one was not longer, and that the calls have ended.
	caps := map[tpm.Version]string{tpm.V12: "0000000000017fff", tpm.V20: "000000000001ffff"}[b.tpm.version]
	if got := c.ask(t, "00000001", 8); got != caps {
		t.Fatalf("%s: after the reply comes %s, want %s", name, got, caps)
	}
	if want == bo || want == bp && !strings.HasPrefix(took, "Info") && !strings.HasPrefix(took, "Prepare") {
		took = ""
	}
	if got := b.tpm.Took(); got != took {
		t.Errorf("%s: the TPM was asked %q, want %q", name, got, took)
	}
	return c
}

// TestCommandErrors checks every request when the TPM fails it.
func TestCommandErrors(t *testing.T) {
	for _, g := range []struct{ name, in, want string }{
		{"INIT", "00000002 00000000", "00000101"},
		{"SHUTDOWN", "00000003", "00000101"},
		{"GET_TPMESTABLISHED", "00000004", "00000101 01 000000"},
		{"SET_LOCALITY", "00000005 00", "00000101"},
		{"HASH_START", "00000006", "00000101"},
		{"HASH_DATA", "00000007 00000000", "00000101"},
		{"HASH_DATA, long", "00000007 00008000 00*32768", "00000101"},
		{"HASH_END", "00000008", "00000101"},
		{"CANCEL_TPM_CMD", "00000009", "00000101"},
		{"STORE_VOLATILE", "0000000a", "00000101"},
		{"RESET_TPMESTABLISHED", "0000000b 03", "00000101"},
		{"GET_STATEBLOB", "0000000c 00000000 00000001 00000000", "00000101 00000000 00000000 00000000"},
		{"STOP", "0000000e", "00000101"},
		{"SET_BUFFERSIZE", "00000011 00000000", "00000101"},
		{"GET_INFO", "00000012 0000000000000007 00000000 00000000", "00000101"},
		{"LOCK_STORAGE", "00000013 00000000", "00000101"},
	} {
		b := newBench(t, tpm.V20)
		b.tpm.Set(true)
		b.tpm.Fail(tpm.RCFailure)
		c := b.connect(t, unix.SOCK_STREAM)
		want := strings.ReplaceAll(g.want, " ", "")
		if got := c.ask(t, g.in, len(want)/2); got != want {
			t.Errorf("%s: reply = %s, want %s", g.name, got, want)
		}
	}
}

// TestStorageLost checks SET_STATEBLOB while another process has the state.
func TestStorageLost(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Fail(tpm.Fail)
	c := b.connect(t, unix.SOCK_STREAM)
	if got := c.ask(t, "0000000d 00000000 00000001 00000000", 4); got != ioe {
		t.Errorf("reply = %s, want %s", got, ioe)
	}
	b.Await(t, "end: "+tpm.Fail.Error())
}

// TestInfoParts checks that a long text is read in parts.
func TestInfoParts(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.info = strings.Repeat("x", 2*MaxInfo)
	c := b.connect(t, unix.SOCK_STREAM)
	for _, g := range []struct{ offset, head string }{
		{"00000000", "00000000 00001801 00000c00"},
		{"00000001", "00000000 00001801 00000c00"},
		{"00000c00", "00000000 00001801 00000c00"},
		{"00000c01", "00000000 00001801 00000c00"}, // with the NUL
		{"00000c02", "00000000 00001801 00000bff"},
		{"000017ff", "00000000 00001801 00000002"},
	} {
		head := harness.Unhex(g.head)
		n := int(head[10])<<8 | int(head[11])
		got := c.ask(t, "00000012 0000000000000001 "+g.offset+" 00000000", len(head)+n)
		if want := strings.ReplaceAll(g.head, " ", ""); got[:24] != want {
			t.Errorf("GET_INFO at %s = %s, want %s", g.offset, got[:24], want)
		}
		if end := strings.HasSuffix(got, "00"); end != (g.offset > "00000c00") {
			t.Errorf("GET_INFO at %s: ends in a NUL = %v", g.offset, end)
		}
	}
}
