package main

import (
	"encoding/hex"
	"net"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// fake is a TPM that listens on a Unix socket, records the commands and answers each
// connection once.
type fake struct {
	path   string
	answer func(cmd []byte) []byte // nil: close without a response

	mu  sync.Mutex
	got []string // hex
}

func newFake(t *testing.T, answer func(cmd []byte) []byte) *fake {
	t.Helper()
	f := &fake{path: filepath.Join(t.TempDir(), "data"), answer: answer}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.serve(conn)
		}
	}()
	return f
}

func (f *fake) serve(conn net.Conn) {
	defer conn.Close()
	b := make([]byte, tpm.MaxCommand)
	n, err := conn.Read(b)
	if err != nil {
		return
	}
	f.mu.Lock()
	f.got = append(f.got, hex.EncodeToString(b[:n]))
	f.mu.Unlock()
	conn.Write(f.answer(b[:n]))
}

// random is the part of TPM2_HierarchyChangeAuth that differs each time.
var random = regexp.MustCompile(`^(8002.{50}0014)(.{40})$`)

// commands returns the commands since the last call.
func (f *fake) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.got
	f.got = nil
	for i := range got {
		got[i] = random.ReplaceAllString(got[i], "${1}random")
	}
	return got
}

// result answers every command with the result r; a response of success has the flags of a
// TPM 1.2 that is deactivated or not.
func result(r uint32, deactivated bool) func([]byte) []byte {
	return func(cmd []byte) []byte {
		tag := []byte{0, 0xc4}
		if cmd[0] == 0x80 {
			tag = cmd[:2]
		}
		if r == 0 && hex.EncodeToString(cmd[6:10]) == "00000065" {
			flags := make([]byte, 22)
			flags[1] = 0x1f
			if deactivated {
				flags[4] = 1
			}
			return append(harness.Unhex("00c4000000240000000000000016"), flags...)
		}
		return append(append(append([]byte(nil), tag...), 0, 0, 0, 10), byte(r>>24), byte(r>>16), byte(r>>8), byte(r))
	}
}

const (
	startup12 = "00c1 0000000c 00000099 0001"
	enable12  = "00c1 0000000c 4000000a 0020"
	present12 = "00c1 0000000c 4000000a 0008"
	flags12   = "00c1 00000016 00000065 00000004 00000004 00000108"
	on12      = "00c1 0000000a 0000006f"
	activate  = "00c1 0000000b 00000072 00"
	selfTest  = "00c1 0000000a 00000053"
	lock12    = "00c1 0000000c 4000000a 0014"
	startup20 = "8001 0000000c 00000144 0000"
	selfTst20 = "8001 00000010 00000142 00000001 000b"
	auth20    = "8002 00000031 00000129 4000000c 00000009 40000009 0000 01 0000 0014 random"
)
