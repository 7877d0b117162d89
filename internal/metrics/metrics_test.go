package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/io/listen"
)

// sample sets every field and uses labels that need escaping.
func sample() *Sample {
	h := NewHistogram()
	for _, d := range []time.Duration{1, 10 * time.Microsecond, 11 * time.Microsecond, time.Second, time.Hour} {
		h.Add(d)
	}
	now := time.Now()
	return &Sample{
		Version: "0.1.0", Library: "0.9.2", TPM: "2.0", Instance: "a\"b\\c\nd",
		On: true, Waiting: true, Waits: 4, Refused: 3, Started: now.Add(-90 * time.Second), Now: now,
		Commands: []Command{{"TPM2_GetRandom", "0x17b", 0, 7}, {"TPM2_GetRandom", "0x17b", 0x101, 1}, {"", "unknown", 0x143, 2}, {"", "other", 0, 1}},
		Latency:  h.Durations(),
		Stores:   []Stores{{"permall", h.Durations(), 1}, {"volatilestate", NewHistogram().Durations(), 0}},
		Channels: []Channel{{"data", 1, 12}, {"control", 0, 3}},
		Policies: &Policies{Failures: 2, PCRs: [24]uint64{7: 2, 11: 1}},
	}
}

// TestText checks the lines of each metric family.
func TestText(t *testing.T) {
	got := string(sample().Text())
	for _, want := range []string{
		"# TYPE swtpm_build info\n",
		`swtpm_build_info{version="0.1.0",libtpms="0.9.2",tpm="2.0",instance="a\"b\\c\nd"} 1` + "\n",
		"swtpm_uptime_seconds 90.0\n",
		"swtpm_on 1\n",
		`swtpm_commands_total{command="TPM2_GetRandom",code="0x17b",result="0x0"} 7` + "\n",
		`swtpm_commands_total{command="TPM2_GetRandom",code="0x17b",result="0x101"} 1` + "\n",
		`swtpm_commands_total{command="",code="unknown",result="0x143"} 2` + "\n",
		`swtpm_command_duration_seconds_bucket{le="1e-05"} 2` + "\n",
		`swtpm_command_duration_seconds_bucket{le="2.5e-05"} 3` + "\n",
		`swtpm_command_duration_seconds_bucket{le="0.5"} 3` + "\n",
		`swtpm_command_duration_seconds_bucket{le="1.0"} 4` + "\n",
		`swtpm_command_duration_seconds_bucket{le="+Inf"} 5` + "\n",
		"swtpm_command_duration_seconds_count 5\n",
		`swtpm_store_duration_seconds_count{item="permall"} 5` + "\n",
		`swtpm_store_failures_total{item="permall"} 1` + "\n",
		"swtpm_store_waiting 1\n",
		"swtpm_store_waits_total 4\n",
		"swtpm_commands_refused_total 3\n",
		`swtpm_clients{channel="data"} 1` + "\n",
		`swtpm_connections_total{channel="control"} 3` + "\n",
		"swtpm_policy_failures_total 2\n",
		`swtpm_pcr_policy_failures_total{pcr="7"} 2` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if !strings.HasSuffix(got, "\n# EOF\n") {
		t.Error("the text has no end")
	}
}

// TestParser checks that the parser of Prometheus' client library, which is strict, reads the
// text.
func TestParser(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's packages are for this one; PATH may name another one first
	if out, err := exec.Command(python, "-c", "import prometheus_client").CombinedOutput(); err != nil {
		text := fmt.Sprintf("no parser here; install the package python3-prometheus-client: %s", out)
		if os.Getenv("SWTPM_TEST_REQUIRE") != "" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	cmd := exec.Command(python, "-c", `
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for f in text_string_to_metric_families(sys.stdin.read()):
    print(f.name, f.type, len(f.samples))
    if f.name == "swtpm_build": print(f.samples[0].labels["instance"].encode())
`)
	cmd.Stdin = strings.NewReader(string(sample().Text()))
	out, err := cmd.CombinedOutput()
	n := len(Bounds) + 3
	want := fmt.Sprintf(`swtpm_build info 1
b'a"b\\c\nd'
swtpm_uptime_seconds gauge 1
swtpm_on gauge 1
swtpm_commands counter 4
swtpm_command_duration_seconds histogram %d
swtpm_store_duration_seconds histogram %d
swtpm_store_failures counter 2
swtpm_store_waiting gauge 1
swtpm_store_waits counter 1
swtpm_commands_refused counter 1
swtpm_limited_commands counter 1
swtpm_clients gauge 2
swtpm_connections counter 2
swtpm_policy_failures counter 1
swtpm_pcr_policy_failures counter 2
`, n, 2*n)
	if err != nil || string(out) != want {
		t.Errorf("the parser says %v\n%s\nwant\n%s", err, out, want)
	}
}

// TestHistogramAllocates checks that Add allocates nothing.
func TestHistogramAllocates(t *testing.T) {
	h := NewHistogram()
	if n := testing.AllocsPerRun(100, func() { h.Add(3 * time.Millisecond) }); n != 0 {
		t.Errorf("Add allocates %v times", n)
	}
}

// TestServe checks clients that use HTTP, clients that close their side without a request,
// and clients that send nothing at all.
func TestServe(t *testing.T) {
	path := serve(t, []byte("text\n"))
	for _, tt := range []struct {
		name, ask string
		end       bool
		want      string
	}{
		{"http", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", false,
			"HTTP/1.0 200 OK\r\nContent-Type: " + ContentType + "\r\nContent-Length: 5\r\n\r\ntext\n"},
		{"closed", "", true, "text\n"},
		{"silent", "", false, "text\n"},
		{"odd", strings.Repeat("x", maxRequest), false, "text\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(t, path)
			if _, err := io.WriteString(c, tt.ask); err != nil {
				t.Fatal(err)
			}
			if tt.end {
				_ = c.CloseWrite()
			}
			if got, err := io.ReadAll(c); string(got) != tt.want {
				t.Errorf("the client got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestServeSeveral checks that other clients are served at the last place while clients that do not
// read have all other places, that no more clients are served than there are places, and that a client
// that does not read is disconnected.
func TestServeSeveral(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than a socket takes at once
	path := serve(t, text)
	ask := func() *net.UnixConn {
		c := connect(t, path)
		_ = c.CloseWrite()
		return c
	}
	get := func(c net.Conn) {
		t.Helper()
		if got, err := io.ReadAll(c); !bytes.Equal(got, text) || err != nil {
			t.Errorf("a client got %d bytes, %v, want %d", len(got), err, len(text))
		}
	}
	first := []byte{0}
	begin := func(c net.Conn) {
		t.Helper()
		if _, err := c.Read(first); err != nil || first[0] != text[0] {
			t.Fatalf("a client got %q, %v", first, err)
		}
	}
	begun := time.Now()
	slow := ask()
	begin(slow)
	var others []net.Conn
	for range places - 2 {
		c := ask()
		begin(c)
		others = append(others, c)
	}
	for range 3 {
		get(ask())
	}
	last, waits := ask(), ask()
	begin(last)
	_ = waits.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := waits.Read(first)
	if took := time.Since(begun); took > takeTime { // places are free again
		t.Skipf("the machine is busy: the clients took %v", took)
	}
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client without a place got %d bytes, %v", n, err)
	}
	for _, c := range append(others, last) {
		if got, err := io.ReadAll(c); !bytes.Equal(got, text[1:]) || err != nil {
			t.Errorf("a client got %d bytes, %v, want %d", len(got), err, len(text)-1)
		}
	}
	_ = waits.SetReadDeadline(time.Now().Add(time.Minute))
	get(waits)
	time.Sleep(time.Until(begun.Add(takeTime + time.Second)))
	if got, _ := io.ReadAll(slow); len(got) == 0 || len(got) >= len(text)-1 {
		t.Errorf("a client that did not read for %v got %d bytes, want a part", takeTime, len(got))
	}
}

// TestServeWithoutDescriptors checks that clients are served once the process has a free descriptor
// again, and that the loop does not spin before.
func TestServeWithoutDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(); _ = w.Close() }()
	f := &fakeLoop{}
	l := &fullListener{fd: int(r.Fd())}
	Serve(f, l, func() []byte { return []byte("text\n") })
	if len(f.watches) != 1 || f.watches[0]() {
		t.Fatal("the loop waits for a listener whose clients cannot be accepted")
	}
	if len(f.timers) != 1 {
		t.Fatalf("%d timers, want one", len(f.timers))
	}
	f.timers[0]()
	if len(f.watches) != 2 {
		t.Fatalf("%d calls of Watch, want 2", len(f.watches))
	}
	l.closed = true
	if f.watches[1]() {
		t.Error("the loop waits for a listener that is closed")
	}
}

// fakeLoop collects what it would call.
type fakeLoop struct {
	watches []func() bool
	timers  []func()
}

func (l *fakeLoop) Watch(_ int, ready func() bool) bool {
	l.watches = append(l.watches, ready)
	return true
}
func (l *fakeLoop) After(_ time.Duration, f func()) bool { l.timers = append(l.timers, f); return true }

// fullListener belongs to a process without free descriptors.
type fullListener struct {
	fd     int
	closed bool
}

func (l *fullListener) Descriptor() int { return l.fd }

func (l *fullListener) TryAccept() (int, error) {
	if l.closed {
		return -1, unix.EBADF
	}
	return -1, unix.EMFILE
}

// serve serves text at the path that it returns.
func serve(t *testing.T, text []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := listen.Open(config.Endpoint{Kind: config.Unix, Path: path, Mode: 0o600, UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	loop, err := conn.New(conn.Options{Buffer: 1})
	if err != nil {
		t.Fatal(err)
	}
	Serve(loop, l, func() []byte { return text })
	go loop.Run()
	t.Cleanup(func() {
		_ = l.Close()
		loop.Close(time.Minute)
	})
	return path
}

// connect returns a connection that ends after a minute.
func connect(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// realLoop calls functions on goroutines.
type realLoop struct{ fakeLoop }

func (*realLoop) After(d time.Duration, f func()) bool { time.AfterFunc(d, f); return true }

// TestFile checks that the file is written, that a failure is reported once, and that the
// file is removed at the end.
func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	path := filepath.Join(dir, "m.prom")
	if err := Check(path); err == nil {
		t.Error("Check finds nothing wrong with a directory that is not there")
	}
	said := make(chan string, 9)
	f := &File{
		Path: path, Every: time.Millisecond, Text: func() []byte { return []byte("text\n") },
		Warn:       func(f string, a ...any) { said <- fmt.Sprintf(f, a...) },
		Background: func(f func()) { go f() },
	}
	f.Start(&realLoop{})
	if got := <-said; !strings.Contains(got, "no such file or directory; trying again") {
		t.Errorf("File said %q", got)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, want := <-said, fmt.Sprintf("metrics: %q is written again", path); got != want {
		t.Errorf("File said %q, want %q", got, want)
	}
	if got, err := os.ReadFile(path); string(got) != "text\n" {
		t.Errorf("the file has %q, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("the file: %v, %v", st, err)
	}
	f.Stop()
	f.write() // one that was late
	if names, _ := os.ReadDir(dir); len(names) != 0 || len(said) != 0 {
		t.Errorf("what is left: %v, %d messages", names, len(said))
	}
}

// TestFileBackground checks that the loop begins no second write while the first one waits for the disk.
func TestFileBackground(t *testing.T) {
	var jobs []func()
	loop := &fakeLoop{}
	f := &File{
		Path: filepath.Join(t.TempDir(), "m.prom"), Every: time.Minute, Text: func() []byte { return nil },
		Warn:       t.Errorf,
		Background: func(f func()) { jobs = append(jobs, f) },
	}
	f.Start(loop)
	f.next()
	f.next()
	if len(jobs) != 1 {
		t.Fatalf("%d writes at once, want one", len(jobs))
	}
	jobs[0]()
	f.next()
	if len(jobs) != 2 || len(loop.timers) != 4 {
		t.Errorf("%d writes after %d timers, want 2 after 4", len(jobs), len(loop.timers))
	}
}
