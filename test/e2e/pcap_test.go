package e2e_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// frame is a frame of a recording, as tshark sees it.
type frame struct {
	section   string // from 1
	toTPM     bool
	flags     uint64 // of TCP
	payload   string // hex
	code      string // command code or result, "0x0000017b", as the TPM dissector has it
	protocols string
	sums      string // whether the checksums of IP and TCP are right
	analysis  string // what TCP's analysis finds fault with
}

// frames has tshark decode a recording.
func frames(t *testing.T, path string, args ...string) []frame {
	t.Helper()
	fields := []string{
		"frame.section_number", "tcp.dstport", "tcp.flags", "tcp.payload", "tpm.req.cc", "tpm.resp.rc", "frame.protocols",
		"ip.checksum.status", "tcp.checksum.status", "tcp.analysis.flags",
	}
	args = append([]string{"-n", "-r", path, "-T", "fields", "-E", "separator=|", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"}, args...)
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.Command(harness.Need(t, "tshark", "tshark"), args...)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(path), "XDG_CONFIG_HOME="+filepath.Dir(path)) // no preferences
	code, out, errout := runCmd(t, cmd)
	if code != 0 {
		t.Fatalf("tshark: exit code %d\n%s", code, errout)
	}
	var list []frame
	for line := range strings.Lines(out) {
		v := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if len(v) != len(fields) {
			t.Fatalf("tshark's line has %d fields, want %d: %q", len(v), len(fields), line)
		}
		flags, err := strconv.ParseUint(v[2], 0, 16)
		if err != nil {
			t.Fatalf("tshark's line has no TCP flags: %q", line)
		}
		list = append(list, frame{
			section: v[0], toTPM: v[1] == "2321", flags: flags, payload: v[3], code: v[4] + v[5], protocols: v[6],
			sums: v[7] + v[8], analysis: v[9],
		})
	}
	return list
}

// traffic is the commands and responses of a client, in hex, and the commands that the emulator
// sent to its TPM by itself.
type traffic []string

// exchange sends a command and notes what it sent and got.
func (r *traffic) exchange(t *testing.T, c *channel, cmd string) {
	t.Helper()
	rsp, err := c.transmit(cmd)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := fromHex(cmd)
	*r = append(*r, hex.EncodeToString(b), hex.EncodeToString(rsp))
}

// prefixed does so with a prefix, whose response is noted without what is around
// it.
func (r *traffic) prefixed(t *testing.T, c *channel, cmd string) {
	t.Helper()
	b, err := fromHex(cmd)
	if err != nil {
		t.Fatal(err)
	}
	b = append([]byte{0, 0, 0, 8, 2, 0, 0, 0, byte(len(b))}, b...)
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := c.Read(size[:]); err != nil {
		t.Fatal(err)
	}
	rsp, err := c.response()
	if err != nil || int(size[3]) != len(rsp) {
		t.Fatalf("response of %x bytes: %x, %v", size, rsp, err)
	}
	if _, err := c.Read(size[:]); err != nil {
		t.Fatal(err)
	}
	*r = append(*r, hex.EncodeToString(b), hex.EncodeToString(rsp))
}

// TestRecordingMatches checks that tshark finds in the recording exactly the commands and
// responses of the clients, over two runs in one file.
func TestRecordingMatches(t *testing.T) {
	t.Parallel()
	harness.Need(t, "tshark", "tshark")
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			file := filepath.Join(dir, "f.pcapng")
			state := filepath.Join(dir, "state")
			mkdir(t, state)
			var want []traffic
			for run := range 2 {
				e := start(t, setup{tpm: v, state: state, args: []string{"--flags", "startup-clear", "--pcap", "file=" + file + ",checksums"}})
				var r traffic
				begin := map[version]string{v12: startup12, v20: startup20}[v]
				b, _ := fromHex(begin)
				r = append(r, hex.EncodeToString(b), map[version]string{v12: "00c40000000a00000000", v20: "80010000000a00000000"}[v])
				c, other := e.open(t, v), e.open(t, v)
				if v == v20 {
					for _, cmd := range []string{random20, define20, incr20, read20, readPCR[v20], "8001 0000000b 0000017b 00", "8001 0000000a 20000fff", "1234 0000000a 00000000"} {
						r.exchange(t, c, cmd)
						r.exchange(t, other, random20)
					}
					r.prefixed(t, c, random20)
				} else {
					for _, cmd := range []string{define12, fmt.Sprintf(write12, 7), read12, readPCR[v12], "00c1 0000000b 000000f1", "1234 0000000a 00000000"} {
						r.exchange(t, c, cmd)
						r.exchange(t, other, ticks12)
					}
				}
				_ = other.Close()
				// 300 commands more: the numbers of TCP go on.
				for range 300 * run {
					r.exchange(t, c, map[version]string{v12: ticks12, v20: random20}[v])
				}
				e.terminate(t)
				if v == v20 { // of its own
					r = append(r, "80010000000c000001450001", "80010000000a00000000")
				}
				want = append(want, r)
			}
			compareFrames(t, v, frames(t, file), want)
			info := mustRun(t, harness.Need(t, "capinfos", "tshark"), "-M", "-c", "-t", "-E", file)
			for _, line := range []string{"pcapng", "ether", fmt.Sprintf("Number of packets:   %d", len(want[0])+len(want[1])+2*6)} {
				if !strings.Contains(info, line) {
					t.Errorf("capinfos says\n%s, want %q", info, line)
				}
			}
		})
	}
}

// compareFrames wants in each section a handshake, what the client has seen, and
// the end of the connection.
func compareFrames(t *testing.T, v version, list []frame, want []traffic) {
	t.Helper()
	for n, r := range want {
		var got []frame
		for _, f := range list {
			if f.section == strconv.Itoa(n+1) {
				got = append(got, f)
			}
		}
		if len(got) != len(r)+6 {
			t.Fatalf("section %d: %d frames, want %d", n+1, len(got), len(r)+6)
		}
		var flags []string
		for _, f := range append(got[:3:3], got[len(got)-3:]...) {
			flags = append(flags, fmt.Sprintf("%02x", f.flags))
		}
		if s := strings.Join(flags, " "); s != "02 12 10 01 11 10" {
			t.Errorf("section %d: TCP begins and ends with flags %s", n+1, s)
		}
		for i, f := range got {
			if f.sums != "11" || strings.Contains(f.analysis, "lost") {
				t.Fatalf("section %d, frame %d: %+v", n+1, i, f)
			}
		}
		for i, f := range got[3 : len(got)-3] {
			if f.payload != r[i] || f.toTPM != (i%2 == 0) {
				t.Fatalf("section %d, record %d: to the TPM %v, %s, want %s", n+1, i, f.toTPM, f.payload, r[i])
			}
			if !strings.HasSuffix(f.protocols, ":tpm") {
				t.Fatalf("section %d, record %d is %s, want TPM", n+1, i, f.protocols)
			}
			if v == v20 && !strings.HasPrefix(f.payload, "00000008") && f.code != "0x"+f.payload[12:20] {
				t.Errorf("section %d, record %d: tshark sees code %s in %s", n+1, i, f.code, f.payload)
			}
		}
	}
}

// plainSecret is in the commands of TestRedactPlain.
const plainSecret = "5ec1e75ec1e75ec1"

// secretCommands use it in all ways.
var secretCommands = map[version][]string{
	v20: {
		"8002 00000023 00000129 40000001 00000009 40000009 0000 00 0000 0008" + plainSecret, // HierarchyChangeAuth
		"8002 0000002b 00000129 40000001 00000011 40000009 0000 00 0008" + plainSecret + "0008" + plainSecret,
		"8001 00000014 00000146 0008" + plainSecret,                                    // StirRandom
		"8001 0000001a 0000017d 0008" + plainSecret + "000b 40000007",                  // Hash
		"8001 00000014 0000017c 0008" + plainSecret,                                    // GetTestResult, with too much
		"8001 00000013 20000001 00" + plainSecret,                                      // unknown
		"8001 000000ff 00000146 0008" + plainSecret,                                    // a wrong size
		"8002 00000014 00000129 0008" + plainSecret,                                    // HierarchyChangeAuth without a handle
		plainSecret + plainSecret,                                                      // no command
		"8002 0000001f 00000126 4000000c 00000011 40000009 0000 00 0008" + plainSecret, // Clear: a wrong password
		random20,
	},
	v12: {
		define12,
		"00c1 0000001e 000000cd 00001234 00000000 00000008" + plainSecret,
		read12,
		"00c1 00000016 00000047 00000008" + plainSecret, // StirRandom
		"00c1 00000012 000000e7" + plainSecret,          // ExecuteTransport
		"00c2 0000003f 000000cd 00001234 00000000" + plainSecret + "00000000" + plainSecret[:16] + plainSecret[:16] + plainSecret[:8] + "00" + plainSecret + plainSecret + plainSecret[:8],
		plainSecret + plainSecret,
		"00c1 0000000e 00000046 00000008", // GetRandom
	},
}

// TestRecordingUnread records into a pipe that no process reads, and checks that every command is
// answered, that the loss is logged once, and that the process ends on request.
func TestRecordingUnread(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(harness.TempDir(t), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	e := start(t, setup{
		tpm: v20, wrap: []string{"sh", "-c", `exec 9<>"` + fifo + `"; exec "$0" "$@"`},
		args: []string{"--flags", "startup-clear", "--pcap", "fd=9"},
	})
	c := e.open(t, v20)
	for range 1000 {
		c.ok(t, random20)
	}
	e.terminate(t)
	const told = "pcap: descriptor 9: no process reads the output"
	if log := harness.Read(t, e.log); strings.Count(log, told) != 1 {
		t.Errorf("the log is\n%s, want once %q", log, told)
	}
}

// TestRecordingAfterKill appends to a recording that ended in the middle. The content
// of the first part is what was sent and got, in order, with no piece of a
// record at its end.
func TestRecordingAfterKill(t *testing.T) {
	t.Parallel()
	harness.Need(t, "tshark", "tshark")
	dir := harness.TempDir(t)
	file := filepath.Join(dir, "f.pcapng")
	mkdir(t, dir+"/state")
	var want [2]traffic
	for run := range 2 {
		e := start(t, setup{tpm: v20, state: dir + "/state", args: []string{"--flags", "not-need-init", "--pcap", "file=" + file}})
		c := e.open(t, v20)
		want[run].exchange(t, c, startup20)
		for range 20 {
			want[run].exchange(t, c, random20)
		}
		if run == 0 {
			e.Kill(t)
		} else {
			want[run].exchange(t, c, "8001 0000000c 00000145 0000") // or we would send it
			e.terminate(t)
		}
	}
	var got [2][]string
	for _, f := range frames(t, file) {
		if f.payload != "" {
			n, err := strconv.Atoi(f.section)
			if err != nil || n > 2 {
				t.Fatalf("section %q", f.section)
			}
			got[n-1] = append(got[n-1], f.payload)
		}
	}
	if !slices.Equal(got[1], want[1]) {
		t.Errorf("after the restart tshark sees\n%s, want\n%s", got[1], want[1])
	}
	// A killed process may lose records that wait for a slow disk.
	if n := len(got[0]); n > len(want[0]) || !slices.Equal(got[0], want[0][:n]) {
		t.Errorf("before the restart tshark sees\n%s, want the begin of\n%s", got[0], want[0])
	}
}
