package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	l := listener{make(chan int)}
	go Serve(l, func() []byte { return []byte("text\n") })
	defer close(l.fds)
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
			c := l.connect(t)
			if _, err := io.WriteString(c, tt.ask); err != nil {
				t.Fatal(err)
			}
			if tt.end {
				_ = c.(*net.UnixConn).CloseWrite()
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			if got, err := io.ReadAll(c); string(got) != tt.want {
				t.Errorf("the client got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestServeSeveral checks that other clients are served at the last place while clients whose text
// is not ready have all other places, and that no more clients are served than there are places.
func TestServeSeveral(t *testing.T) {
	l := listener{make(chan int)}
	defer close(l.fds)
	begun, release := make(chan bool), make(chan bool)
	var calls, now, most atomic.Int64
	go Serve(l, func() []byte {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if calls.Add(1) < places {
			begun <- true
			<-release
		}
		return []byte("text\n")
	})
	get := func(c net.Conn) {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_ = c.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "text\n" || err != nil {
			t.Errorf("a client got %q, %v", got, err)
		}
	}
	var slow []net.Conn
	for range places - 1 {
		c := l.connect(t)
		_ = c.(*net.UnixConn).CloseWrite()
		slow = append(slow, c)
		select {
		case <-begun:
		case <-time.After(time.Minute):
			t.Fatal("a client waits for another one")
		}
	}
	for range 3 {
		get(l.connect(t))
	}
	close(release)
	for _, c := range slow {
		get(c)
	}
	var done sync.WaitGroup
	for range 3 * places {
		done.Go(func() { get(l.connect(t)) })
	}
	done.Wait()
	if n := most.Load(); n != places {
		t.Errorf("%d clients were served at once, want %d", n, places)
	}
}

type listener struct{ fds chan int }

// connect returns the client's end of a connection that l returns.
func (l listener) connect(t *testing.T) net.Conn {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	f := os.NewFile(uintptr(p[0]), "client")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l.fds <- p[1]
	return c
}

func (l listener) Accept() (int, error) {
	if fd, ok := <-l.fds; ok {
		return fd, nil
	}
	return -1, net.ErrClosed
}

// TestMaintain checks that the file is written, that a failure is reported once, and that the
// file is removed at the end.
func TestMaintain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	path := filepath.Join(dir, "m.prom")
	if err := Check(path); err == nil {
		t.Error("Check finds nothing wrong with a directory that is not there")
	}
	ctx, end := context.WithCancel(t.Context())
	said, done := make(chan string, 9), make(chan bool)
	go func() {
		Maintain(ctx, path, time.Millisecond, func() []byte { return []byte("text\n") }, func(f string, a ...any) { said <- fmt.Sprintf(f, a...) })
		close(done)
	}()
	if got := <-said; !strings.Contains(got, "no such file or directory; trying again") {
		t.Errorf("Keep said %q", got)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, want := <-said, fmt.Sprintf("metrics: %q is written again", path); got != want {
		t.Errorf("Keep said %q, want %q", got, want)
	}
	if got, err := os.ReadFile(path); string(got) != "text\n" {
		t.Errorf("the file has %q, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("the file: %v, %v", st, err)
	}
	end()
	<-done
	if names, _ := os.ReadDir(dir); len(names) != 0 || len(said) != 0 {
		t.Errorf("what is left: %v, %d messages", names, len(said))
	}
}
