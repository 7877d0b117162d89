package e2e_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// transcript is the traffic between QEMU and the reference on the control channel, as a proxy
// recorded it. Long messages are cut: Hex ends in "...".
type transcript struct {
	TPM2 bool `json:"tpm2"`
	Log  []struct {
		Dir string `json:"dir"`
		Len int    `json:"len"`
		Hex string `json:"hex"`
		FDs int    `json:"fds"`
	} `json:"log"`
}

// TestQEMUTranscripts checks that QEMU's requests at boot, reset, save, restore and exit have the
// same results, and replies of the same length, as with the reference.
func TestQEMUTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/qemu/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			var tr transcript
			if err := json.Unmarshal([]byte(harness.Read(t, file)), &tr); err != nil {
				t.Fatal(err)
			}
			v := v12
			if tr.TPM2 {
				v = v20
			}
			q := newQEMU(t, v)
			for i, m := range tr.Log {
				switch {
				case m.Len == 0: // a remark
				case strings.HasPrefix(m.Dir, "qemu"):
					q.send(t, m.Hex, m.Len, m.FDs)
				default:
					q.reply(t, fmt.Sprintf("message %d", i), m.Hex, m.Len)
				}
			}
			if code := q.Wait(t); code != 0 {
				t.Errorf("after SHUTDOWN: exit code %d, want 0", code)
			}
		})
	}
}

// qemu is QEMU's end of both channels.
type qemu struct {
	*emulator
	v    version
	conn *net.UnixConn
	data *os.File // the end of the socket pair that stays with QEMU
	sent string   // the last request in hex, not cut
}

func newQEMU(t *testing.T, v version) *qemu {
	t.Helper()
	e := start(t, setup{tpm: v, nodata: true})
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.ctrl, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &qemu{emulator: e, v: v, conn: conn}
}

// send sends a recorded request. A state blob was cut from the transcript; the
// vectors' take its place, header and blob in two writes as QEMU does it.
func (q *qemu) send(t *testing.T, hex string, size, fds int) {
	t.Helper()
	_ = q.conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	var body []byte
	if strings.HasSuffix(hex, "...") {
		hex, body = hex[:32], q.blob(t, hex)
		hex = hex[:24] + fmt.Sprintf("%08x", len(body))
	} else if len(hex) != 2*size {
		t.Fatalf("the transcript has %d of %d bytes", len(hex)/2, size)
	}
	b, err := fromHex(hex)
	if err != nil {
		t.Fatal(err)
	}
	var rights []byte
	if fds > 0 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		q.data = os.NewFile(uintptr(pair[0]), "data")
		t.Cleanup(func() { _ = q.data.Close() })
		defer func() { _ = unix.Close(pair[1]) }()
		rights = unix.UnixRights(pair[1])
	}
	if _, _, err := q.conn.WriteMsgUnix(b, rights, nil); err != nil {
		t.Fatal(err)
	}
	if len(body) > 0 {
		if _, err := q.conn.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	q.sent = hex
}

// blob returns the state blob that stands for the cut one in hex.
func (q *qemu) blob(t *testing.T, hex string) []byte {
	t.Helper()
	names := map[string]string{"00000001": "permanent.blob", "00000002": "volatile.blob"}
	name, ok := names[hex[16:24]]
	if !ok || q.v != v20 {
		t.Fatalf("no blob for %s", hex)
	}
	return []byte(harness.Read(t, filepath.Join("testdata", "reference", name)))
}

// reply checks that a reply has the result and the length of the reference's. The length of a
// state blob depends on libtpms, but must be the one in the header.
func (q *qemu) reply(t *testing.T, what, hex string, size int) {
	t.Helper()
	_ = q.conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	b := make([]byte, 64<<10)
	n := 0
	for least := min(size, 16); n < least; {
		m, err := q.conn.Read(b[n:])
		if err != nil {
			t.Fatalf("%s: reply to %s: %d bytes, %v; want %d", what, q.sent, n, err, size)
		}
		n += m
		if strings.HasPrefix(q.sent, "0000000c") && n >= 16 {
			total := binary.BigEndian.Uint32(b[8:])
			if total != binary.BigEndian.Uint32(b[12:]) {
				t.Fatalf("%s: a state blob of %d bytes, %d of which follow", what, total, binary.BigEndian.Uint32(b[12:]))
			}
			least, size = 16+int(total), 16+int(total)
		}
	}
	if got := fmt.Sprintf("%x", b[:4]); got != hex[:8] || n != size {
		t.Errorf("%s: reply to %s: result %s, %d bytes; want %s, %d", what, q.sent, got, n, hex[:8], size)
	}
	if strings.HasPrefix(q.sent, "00000010") {
		q.probe(t)
	}
}

// probe does what QEMU does right after SET_DATAFD: it reads the version from the tag of the
// response of a TPM that is still off. The response must be complete.
func (q *qemu) probe(t *testing.T) {
	t.Helper()
	b := make([]byte, 4096)
	for _, p := range []struct{ cmd, want20, want12 string }{
		{"8001 0000000a 00000181", "80010000000a00000101", "00c40000000a00000009"},
		{"00c1 0000000a 000000f1", "80010000000a00000101", "00c40000000a00000009"},
	} {
		cmd, _ := fromHex(p.cmd)
		if _, err := q.data.Write(cmd); err != nil {
			t.Fatal(err)
		}
		n, err := q.data.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		want := p.want12
		if q.v == v20 {
			want = p.want20
		}
		if got := fmt.Sprintf("%x", b[:n]); got != want {
			t.Errorf("probe %s = %s, want %s", p.cmd, got, want)
		}
	}
}
