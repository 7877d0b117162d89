package ctrl

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
	"golang.org/x/sys/unix"
)

// turn is one exchange of a scripted server: it reads exactly the bytes of req
// and then writes the pieces of rep.
type turn struct {
	req string
	rep []string
}

// serve starts a server that plays the turns on one connection and then closes
// it, and returns a Client of it. The server reports errors through t.
func serve(t *testing.T, turns []turn) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- play(l, turns) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := Dial(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // before the wait for the server
	return c
}

func play(l net.Listener, turns []turn) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, u := range turns {
		want, err := hex.DecodeString(strings.ReplaceAll(u.req, " ", ""))
		if err != nil {
			return err
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("server: read % x, %v, want % x", got, err, want)
		}
		for _, piece := range u.rep {
			b, err := hex.DecodeString(strings.ReplaceAll(piece, " ", ""))
			if err != nil {
				return err
			}
			if _, err := conn.Write(b); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // lets pieces arrive separately
		}
	}
	return nil
}

// clientCall sends one request and formats the reply.
type clientCall func(c *Client) (string, error)

func do(f func(c *Client) error) clientCall {
	return func(c *Client) (string, error) { return "", f(c) }
}

// clientGolden is a call of a Client, and the bytes of its requests and replies.
type clientGolden struct {
	name string
	call clientCall
	turn []turn
	want string
}

// calls are the requests with a good reply each.
//
// Source: swtpm's control channel, requests and replies of swtpm 0.7.1; LOCK_STORAGE from include/swtpm/tpm_ioctl.h of 0.8.
var calls = []clientGolden{
	{"capability", func(c *Client) (string, error) {
		v, err := c.Capability()
		return fmt.Sprintf("%#x", uint32(v)), err
	}, []turn{{"00000001", []string{"00000000 0001ffff"}}}, "0x1ffff"},
	{"init", do(func(c *Client) error { return c.Init(InitDeleteVolatile) }),
		[]turn{{"00000002 00000001", []string{"00000000"}}}, ""},
	{"shutdown", do((*Client).Shutdown), []turn{{"00000003", []string{"00000000"}}}, ""},
	{"established", func(c *Client) (string, error) {
		v, err := c.Established()
		return fmt.Sprint(v), err
	}, []turn{{"00000004", []string{"00000000 01000000"}}}, "true"},
	{"set locality", do(func(c *Client) error { return c.SetLocality(4) }),
		[]turn{{"00000005 04", []string{"00000000"}}}, ""},
	{"hash start", do((*Client).HashStart), []turn{{"00000006", []string{"00000000"}}}, ""},
	{"hash data", do(func(c *Client) error { return c.HashData([]byte("abc")) }),
		[]turn{{"00000007 00000003 616263", []string{"00000000"}}}, ""},
	{"hash data, none", do(func(c *Client) error { return c.HashData(nil) }),
		[]turn{{"00000007 00000000", []string{"00000000"}}}, ""},
	{"hash end", do((*Client).HashEnd), []turn{{"00000008", []string{"00000000"}}}, ""},
	{"cancel", do((*Client).Cancel), []turn{{"00000009", []string{"00000000"}}}, ""},
	{"store volatile", do((*Client).StoreVolatile), []turn{{"0000000a", []string{"00000000"}}}, ""},
	{"reset established", do(func(c *Client) error { return c.ResetEstablished(3) }),
		[]turn{{"0000000b 03", []string{"00000000"}}}, ""},
	{"state", func(c *Client) (string, error) {
		b, f, err := c.State(tpm.Volatile, true)
		return fmt.Sprintf("%s %d", b, f), err
	}, []turn{{"0000000c 00000001 00000002 00000000", []string{"00000000 00000002", "00000006 00000006 6162", "63646566"}}}, "abcdef 2"},
	{"empty state", func(c *Client) (string, error) {
		b, f, err := c.State(tpm.Permanent, false)
		return fmt.Sprintf("%s %d", b, f), err
	}, []turn{{"0000000c 00000000 00000001 00000000", []string{"00000000 00000000 00000000 00000000"}}}, " 0"},
	{"set state", do(func(c *Client) error { return c.SetState(tpm.Savestate, Encrypted, []byte("xyz")) }),
		[]turn{{"0000000d 00000002 00000003 00000003 78797a", []string{"00000000"}}}, ""},
	{"stop", do((*Client).Stop), []turn{{"0000000e", []string{"00", "0000", "00"}}}, ""},
	{"config", func(c *Client) (string, error) {
		v, err := c.Config()
		return fmt.Sprint(v), err
	}, []turn{{"0000000f", []string{"00000000 00000003"}}}, "3"},
	{"buffer size", func(c *Client) (string, error) {
		v, err := c.BufferSize(3000)
		return fmt.Sprint(v.Size, v.Min, v.Max), err
	}, []turn{{"00000011 00000bb8", []string{"00000000 00000bb8 00000af8 00001000"}}}, "3000 2808 4096"},
	{"info in pieces", func(c *Client) (string, error) { return c.Info(0x1_0000_0003) },
		[]turn{
			{"00000012 0000000100000003 00000000 00000000", []string{"00000000 00000006 00000004 7b226122"}},
			{"00000012 0000000100000003 00000004 00000000", []string{"00000000 00000006 00000002 7d", "00"}},
		}, `{"a"}`},
	{"lock storage", do(func(c *Client) error { return c.LockStorage(3) }),
		[]turn{{"00000013 00000003", []string{"00000000"}}}, ""},
}

// TestClientRequests checks the bytes of each request, and the result of its reply.
func TestClientRequests(t *testing.T) {
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.call(serve(t, tt.turn))
			if err != nil || got != tt.want {
				t.Errorf("%s = %q, %v, want %q", tt.name, got, err, tt.want)
			}
		})
	}
}

// TestResults checks that each request returns the result it was refused with, in a short reply
// and in one of full length, and can be repeated afterwards.
func TestResults(t *testing.T) {
	for _, tt := range calls {
		for _, rep := range []string{"0000000a", "0000000a 00000000 00000000 00000000"} {
			t.Run(tt.name, func(t *testing.T) {
				refusal := tt.turn[0]
				refusal.rep = []string{rep}
				c := serve(t, append([]turn{refusal}, tt.turn...))
				_, err := tt.call(c)
				if r, ok := errors.AsType[tpm.Result](err); !ok || r != tpm.BadOrdinal {
					t.Errorf("%s = %v, want %v", tt.name, err, tpm.BadOrdinal)
				}
				if got, err := tt.call(c); err != nil || got != tt.want {
					t.Errorf("%s again = %q, %v, want %q", tt.name, got, err, tt.want)
				}
			})
		}
	}
}

// TestCutReplies checks that a reply that is truncated anywhere is an error that reports that,
// whether the server closes the connection or sends nothing more.
func TestCutReplies(t *testing.T) {
	for _, tt := range calls {
		whole := harness.Unhex(strings.Join(tt.turn[0].rep, ""))
		for n := range whole {
			for _, silent := range []bool{false, true} {
				near, far := pair(t)
				c := NewClient(near)
				c.Timeout = time.Hour
				if silent {
					c.Timeout = 5 * time.Millisecond
				}
				go func() {
					far.Read(make([]byte, 64))
					far.Write(whole[:n])
					if !silent {
						far.Close()
					}
				}()
				_, err := tt.call(c)
				if silent && !errors.Is(err, unix.ETIMEDOUT) {
					t.Errorf("%s, silence after %d bytes: %v, want %v", tt.name, n, err, unix.ETIMEDOUT)
				}
				// A server that closes before it has read everything resets
				// the connection.
				if !silent && !errors.Is(err, ErrReply) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
					t.Errorf("%s, end after %d bytes: %v, want %v", tt.name, n, err, ErrReply)
				}
			}
		}
	}
}

// pair returns two connected sockets that the test closes.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		d, err := FromFD(fd)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		c[i] = d.carrier.(stream).Conn
		t.Cleanup(func() { d.Close() })
	}
	return c[0], c[1]
}

// TestOddReplies checks the errors about short and inconsistent replies.
func TestOddReplies(t *testing.T) {
	state := func(c *Client) (string, error) {
		_, _, err := c.State(tpm.Permanent, true)
		return "", err
	}
	info := func(c *Client) (string, error) { return c.Info(1) }
	for _, tt := range []struct {
		name string
		call clientCall
		req  string
		rep  string
		want string
	}{
		{"bytes after the result", do((*Client).Stop), "0000000e", "00000000 00", "STOP: unexpected reply: 1 bytes too many"},
		{"bytes after the blob", state, "0000000c 00000001 00000001 00000000", "00000000 00000000 00000001 00000001 6162",
			"GET_STATEBLOB: unexpected reply: 1 bytes too many"},
		{"a part of the blob", state, "0000000c 00000001 00000001 00000000", "00000000 00000000 00000003 00000001 61",
			"GET_STATEBLOB: unexpected reply: 1 of 3 bytes announced, expected all"},
		{"a huge blob", state, "0000000c 00000001 00000001 00000000", "00000000 00000000 ffffffff ffffffff",
			"GET_STATEBLOB: unexpected reply: 4294967295 bytes announced, expected at most 67108864"},
		{"no progress", info, "00000012 0000000000000001 00000000 00000000", "00000000 00000005 00000000",
			"GET_INFO: unexpected reply: 0 bytes of 5 after a piece of 0"},
		{"more than all", info, "00000012 0000000000000001 00000000 00000000", "00000000 00000001 00000002 6100",
			"GET_INFO: unexpected reply: 2 bytes of 1 after a piece of 2"},
		{"a long piece", info, "00000012 0000000000000001 00000000 00000000", "00000000 00001000 00000c01",
			"GET_INFO: unexpected reply: 3073 bytes announced, expected at most 3072"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.call(serve(t, []turn{{tt.req, []string{tt.rep}}}))
			if !errors.Is(err, ErrReply) || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// TestRefusedUnread checks that the result is returned although the server has not read the
// blob.
func TestRefusedUnread(t *testing.T) {
	near, far := pair(t)
	go func() {
		io.ReadFull(far, make([]byte, 16))
		far.Write(harness.Unhex("00000009")) // and never reads the blob
	}()
	c := NewClient(near)
	c.Timeout = time.Hour
	err := c.SetState(tpm.Permanent, 0, make([]byte, 8<<20))
	if r, ok := errors.AsType[tpm.Result](err); !ok || r != tpm.Fail {
		t.Errorf("SetState = %v, want %v", err, tpm.Fail)
	}
}

// TestSetDataFD checks that the server can use the end of a socket pair that SetDataFD has sent.
func TestSetDataFD(t *testing.T) {
	near, far := pair(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	served := make(chan error, 1)
	go func() { served <- takeFD(far.(*net.UnixConn), []byte("hello")) }()
	if err := NewClient(near).SetDataFD(fds[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := unix.Read(fds[1], b); err != nil || string(b) != "hello" {
		t.Errorf("through the descriptor came %q, %v, want hello", b, err)
	}
}

// takeFD is a server that accepts SET_DATAFD and writes greeting to the descriptor.
func takeFD(conn *net.UnixConn, greeting []byte) error {
	b, oob := make([]byte, 64), make([]byte, 64)
	n, m, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil || !bytes.Equal(b[:n], []byte{0, 0, 0, 0x10}) {
		return fmt.Errorf("read % x, %v, want 00 00 00 10", b[:n], err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(msgs) != 1 {
		return fmt.Errorf("%d control messages, %v, want 1", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("descriptors %v, %v, want one", fds, err)
	}
	defer unix.Close(fds[0])
	if _, err := unix.Write(fds[0], greeting); err != nil {
		return err
	}
	_, err = conn.Write([]byte{0, 0, 0, 0})
	return err
}

// TestSetDataFDNeedsUnix checks that SetDataFD fails on another connection than a Unix socket.
func TestSetDataFDNeedsUnix(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if err := NewClient(near).SetDataFD(0); err == nil || !strings.Contains(err.Error(), "only a Unix socket") {
		t.Errorf("SetDataFD without a Unix socket = %v, want an error", err)
	}
}

// TestDial checks that the error of Dial names the control channel.
func TestDial(t *testing.T) {
	_, err := Dial(context.Background(), "unix", filepath.Join(t.TempDir(), "nothing"))
	if !errors.Is(err, unix.ENOENT) || !strings.HasPrefix(err.Error(), "control channel: ") {
		t.Errorf("Dial of nothing = %v, want %v of the control channel", err, unix.ENOENT)
	}
}

// TestFromFD checks that datagrams work and that the descriptor stays open.
func TestFromFD(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	c, err := FromFD(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 64)
		n, _ := unix.Read(fds[1], b)
		if hex.EncodeToString(b[:n]) == "0000000f" {
			unix.Write(fds[1], []byte{0, 0, 0, 0, 0, 0, 0, 1})
		}
	}()
	if f, err := c.Config(); err != nil || f != HasFileKey {
		t.Errorf("Config over datagrams = %v, %v, want %v", f, err, HasFileKey)
	}
	c.Close()
	if err := unix.Close(fds[0]); err != nil {
		t.Errorf("the descriptor is not open after Close: %v", err)
	}
	if _, err := FromFD(fds[0]); !errors.Is(err, unix.EBADF) {
		t.Errorf("FromFD of a closed descriptor = %v, want %v", err, unix.EBADF)
	}
}
