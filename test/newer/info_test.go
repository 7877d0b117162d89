package newer_test

import (
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestGetInfo checks that a text that is longer than one reply of GET_INFO is read in pieces, as
// by clients, and equals the output of --print-info.
func TestGetInfo(t *testing.T) {
	dir := t.TempDir()
	want := try(t, dir, nil, ours(t), "socket", "--tpm2", "--print-info", "0xdf").stdout
	sock := filepath.Join(dir, "c")
	words := append(ours(t), "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+sock)
	cmd := exec.Command(words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	c := harness.Dial(t, nil, sock)
	got, replies := info(t, c, 0xffffffff000000df)
	if got+"\n" != want || replies < 2 || len(got) < 4000 {
		t.Errorf("GET_INFO, %d replies: %q\nwant %q", replies, got, want)
	}
	_ = c.Close()
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// info sends GET_INFO until the text ends, in a NUL.
func info(t *testing.T, c net.Conn, flags uint64) (text string, replies int) {
	t.Helper()
	for {
		req := binary.BigEndian.AppendUint32(nil, 0x12)
		req = binary.BigEndian.AppendUint64(req, flags)
		req = binary.BigEndian.AppendUint32(req, uint32(len(text)))
		req = binary.BigEndian.AppendUint32(req, 0)
		if _, err := c.Write(req); err != nil {
			t.Fatal(err)
		}
		rep := make([]byte, 12+3072)
		n := 0
		for n < 12 || n < 12+int(binary.BigEndian.Uint32(rep[8:])) {
			m, err := c.Read(rep[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if r := binary.BigEndian.Uint32(rep); r != 0 {
			t.Fatalf("GET_INFO at %d: result 0x%x", len(text), r)
		}
		replies++
		text += string(rep[12:n])
		if strings.HasSuffix(text, "\x00") {
			return strings.TrimSuffix(text, "\x00"), replies
		}
	}
}
