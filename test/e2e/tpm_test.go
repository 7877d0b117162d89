package e2e_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// version is a TPM's version. Tests of both have the same steps by it: a number is
// kept in an NV index, a counter with a TPM 2.0, a plain area with a TPM 1.2.
type version string

const (
	v12 version = "1.2"
	v20 version = "2.0"
)

// both is for tests that run with each version.
var both = []version{v12, v20}

// options are what the classic command line says for v.
func (v version) options() []string {
	if v == v20 {
		return []string{"--tpm2"}
	}
	return nil
}

// file is the name of the permanent state.
func (v version) file() string {
	if v == v20 {
		return "tpm2-00.permall"
	}
	return "tpm-00.permall"
}

// The commands of both versions, in hex. %016x is the number.
//
// Source: TPM Main Part 3, TPM_NV_*; TPM 2.0 Library Part 3, TPM2_NV_*.
const (
	startup12 = "00c1 0000000c 00000099 0001"
	startup20 = "8001 0000000c 00000144 0000"

	// index 0x1234 of 8 bytes, to be written by the owner, of which there is none
	define12 = "00c1 00000065 000000cc 0018 00001234" +
		"0003 000000 1f 0000000000000000000000000000000000000000" +
		"0003 000000 1f 0000000000000000000000000000000000000000" +
		"0017 00000002 00 00 00 00000008 0000000000000000000000000000000000000000"
	write12 = "00c1 0000001e 000000cd 00001234 00000000 00000008 %016x"
	read12  = "00c1 00000016 000000cf 00001234 00000000 00000008"

	// a counter, 0x01800001; its own empty password authorises
	define20 = "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800001 000b 02060016 0000 0008"
	incr20   = "8002 0000001f 00000134 01800001 01800001 00000009 40000009 0000 00 0000"
	read20   = "8002 00000023 0000014e 01800001 01800001 00000009 40000009 0000 00 0000 0008 0000"

	random20 = "8001 0000000c 0000017b 0008"
	ticks12  = "00c1 0000000a 000000f1"
)

// maxWrites12 is how often the NV memory of a TPM 1.2 without an owner can be
// written; the definition counts.
//
// Source: TPM Main Part 2, TPM_MAX_NV_WRITE_NOOWNER.
const maxWrites12 = 64

// channel is a connection to the data channel.
type channel struct {
	net.Conn
	v version
}

// open connects to the data channel.
func (e *emulator) open(t testing.TB, v version) *channel {
	t.Helper()
	conn := connect(t, e.data)
	t.Cleanup(func() { _ = conn.Close() })
	return &channel{conn, v}
}

// power sends INIT over the control channel and connects to the data channel
// with a TPM_Startup.
func (e *emulator) power(t testing.TB, v version) *channel {
	t.Helper()
	c := e.control(t)
	err := c.Init(0)
	// etcd may take longer than the broker waits while the machine is busy.
	for n := 0; n < 20 && err != nil && strings.Contains(harness.Read(t, e.log), "the cluster store cannot be reached"); n++ {
		err = c.Init(0)
	}
	if err != nil {
		t.Fatalf("INIT: %v; log:\n%s", err, harness.Read(t, e.log))
	}
	_ = c.Close() // swtpm 0.7 has one control client at a time
	ch := e.open(t, v)
	ch.ok(t, ch.startup())
	return ch
}

func (c *channel) startup() string {
	if c.v == v20 {
		return startup20
	}
	return startup12
}

// fromHex decodes hex digits with blanks between them.
func fromHex(s string) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(s), ""))
}

// transmit sends a command in hex and returns the response.
func (c *channel) transmit(cmd string) ([]byte, error) {
	b, err := fromHex(cmd)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(harness.EventTimeout))
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	return c.response()
}

// response reads one response: u16 tag, u32 size, u32 result and so on.
func (c *channel) response() ([]byte, error) {
	rsp := make([]byte, 10, 4096)
	if _, err := io.ReadFull(c, rsp); err != nil {
		return nil, fmt.Errorf("no response: %w", err)
	}
	size := binary.BigEndian.Uint32(rsp[2:])
	if size < 10 || size > 4096 {
		return rsp, fmt.Errorf("response of %d bytes: %x", size, rsp)
	}
	_, err := io.ReadFull(c, rsp[10:size])
	return rsp[:size], err
}

// result is the result of a response.
func result(rsp []byte) uint32 { return binary.BigEndian.Uint32(rsp[6:]) }

// try sends a command and returns an error unless the TPM says success.
func (c *channel) try(cmd string) ([]byte, error) {
	rsp, err := c.transmit(cmd)
	if err == nil && result(rsp) != 0 {
		err = fmt.Errorf("command %.30s: result %#x", cmd, result(rsp))
	}
	return rsp, err
}

// ok sends a command that must succeed.
func (c *channel) ok(t testing.TB, cmd string) []byte {
	t.Helper()
	rsp, err := c.try(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return rsp
}

// define makes the NV index and gives it a value.
func (c *channel) define(t testing.TB) {
	t.Helper()
	if c.v == v20 {
		c.ok(t, define20)
	} else {
		c.ok(t, define12)
	}
	if err := c.bump(1); err != nil {
		t.Fatal(err)
	}
}

// bump makes the number in the NV index the next one; with a TPM 1.2 that is n.
// An error may mean that there was no answer.
func (c *channel) bump(n uint64) error {
	cmd := incr20
	if c.v == v12 {
		cmd = fmt.Sprintf(write12, n)
	}
	_, err := c.try(cmd)
	return err
}

// number returns the number in the NV index.
func (c *channel) number(t testing.TB) uint64 {
	t.Helper()
	if c.v == v12 { // header, size, bytes
		return binary.BigEndian.Uint64(c.ok(t, read12)[14:])
	}
	return binary.BigEndian.Uint64(c.ok(t, read20)[16:]) // header, parameter size, size, bytes
}

// alive wants an answer that the running TPM alone can give.
func (c *channel) alive(t testing.TB) {
	t.Helper()
	if c.v == v20 {
		c.ok(t, random20)
	} else {
		c.ok(t, ticks12)
	}
}
