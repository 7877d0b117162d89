package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCommands checks the bytes of the commands and requests that are measured.
func TestCommands(t *testing.T) {
	for _, tt := range []struct {
		q    request
		want string
	}{
		{random, "8001 0000000c 0000017b 0010"},
		{increment, "8002 0000001f 00000134 01500001 01500001 00000009 40000009 0000 00 0000"},
		{defineCounter, "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000" +
			"0000 000e 01500001 000b 02060016 0000 0008"},
		{plain[3], "8001 00000014 0000017e 00000001 000b 03 000001"},
	} {
		want := strings.ReplaceAll(tt.want, " ", "")
		if got := hex.EncodeToString(tt.q.bytes); got != want {
			t.Errorf("%s = %s, want %s", tt.q.name, got, want)
		}
	}
}

// TestStatistics checks percentile, median and ratio.
func TestStatistics(t *testing.T) {
	list := []int{5, 1, 4, 2, 3, 6, 7, 8, 9, 10}
	for p, want := range map[int]int{50: 5, 90: 9, 99: 10, 100: 10, 1: 1} {
		if got := percentile(list, p); got != want {
			t.Errorf("percentile(1 to 10, %d) = %d, want %d", p, got, want)
		}
	}
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median(3, 1, 2) = %v, want 2", got)
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median(4, 1, 2, 3) = %v, want 2.5", got)
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median() = %v, want NaN", got)
	}
	p := pairs{}
	p.add(10, 5)
	p.add(100, 300) // a round in which the machine was busy
	p.add(12, 6)
	if got := p.ratio(); got != 0.5 {
		t.Errorf("ratio = %v, want 0.5", got)
	}
}

// TestReport checks the lines of the table and the JSON.
func TestReport(t *testing.T) {
	var r report
	p := pairs{ref: []float64{10, 20, 30}, ours: []float64{21, 40, 63}}
	r.add(row{Name: "slow", Unit: "µs", Target: 1.1}, p, p)
	r.add(row{Name: "fast", Unit: "µs", Target: 2.1}, p, pairs{})
	r.add(row{Name: "wakes", Unit: "/s", Zero: true}, pairs{ref: []float64{0}, ours: []float64{0}}, pairs{})
	r.note("a note")
	var b bytes.Buffer
	if err := r.table(&b); err != nil {
		t.Fatal(err)
	}
	for _, tt := range [][]string{
		{"20", "40", "µs", "2.10", "≤ 1.10", "MISSED", "20", "40", "slow"},
		{"20", "40", "µs", "2.10", "≤ 2.10", "ok", "fast"},
		{"0", "0", "/s", "0/s", "ok", "wakes"},
		{"*", "a note"},
	} {
		want := strings.Join(tt, " ")
		found := false
		for line := range strings.Lines(b.String()) {
			found = found || strings.Join(strings.Fields(line), " ") == want
		}
		if !found {
			t.Errorf("the table has no line %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.json(&b); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Rows) != 3 || *back.Rows[0].Ratio != 2.1 || *back.Rows[0].OursP99 != 40 || back.Rows[2].Ratio != nil {
		t.Errorf("JSON = %s", b.String())
	}
}

// pair returns two ends and answers what arrives at the far one with answer.
func pair(t *testing.T, answer []byte) (near int) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxAnswer)
		for {
			if n, err := unix.Read(ends[1], b); err != nil || n == 0 {
				return
			}
			if _, err := unix.Write(ends[1], answer); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		unix.Shutdown(ends[0], unix.SHUT_RDWR)
		<-done
		unix.Close(ends[0])
		unix.Close(ends[1])
	})
	return ends[0]
}

// TestMeasure checks that measure sends a request as often as asked, and that a refused or short
// answer is an error.
func TestMeasure(t *testing.T) {
	good := []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}
	took, err := measure(pair(t, good), random, 5, time.Millisecond)
	if err != nil || len(took) != 5 {
		t.Fatalf("measure = %v, %v, want 5 times", took, err)
	}
	for _, d := range took {
		if d <= 0 {
			t.Errorf("a command took %v", d)
		}
	}
	bad := []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1}
	if _, err := measure(pair(t, bad), random, 5, 0); err == nil || !strings.Contains(err.Error(), "80010000000a00000101") {
		t.Errorf("measure of a refused command = %v, want the answer", err)
	}
	if _, err := measure(pair(t, good[:4]), random, 1, 0); err == nil || !strings.Contains(err.Error(), "80010000") {
		t.Errorf("measure with a short answer = %v, want the answer", err)
	}
	if _, err := measure(-1, random, 1, 0); err == nil {
		t.Error("measure without a socket did not fail")
	}
}

// TestProc checks that the numbers of this process can be read from /proc.
func TestProc(t *testing.T) {
	pid := os.Getpid()
	for name, f := range map[string]func(int) (int, error){
		"faults": faults, "waits": waits, "threads": threads,
		"cpu":     func(pid int) (int, error) { d, err := cpu(pid); return int(d), err },
		"pss":     func(pid int) (int, error) { m, err := readMemory(pid); return m.pss, err },
		"private": func(pid int) (int, error) { m, err := readMemory(pid); return m.private, err },
	} {
		if n, err := f(pid); err != nil || n <= 0 {
			t.Errorf("%s of this process = %d, %v", name, n, err)
		}
	}
	n, err := parseFaults([]byte("7 (a ) b) S 1 2 3 4 5 6 70 8 9 10\n"))
	if err != nil || n != 79 {
		t.Errorf("parseFaults = %d, %v, want 79", n, err)
	}
	if _, err := parseFaults([]byte("7 (a) S 1 2")); err == nil {
		t.Error("parseFaults of a short line did not fail")
	}
}

// TestParse checks the options of the command line.
func TestParse(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, asJSON, err := parse([]string{"-quick", "-json", "-only", "start,idle", "-ref", self, "-ours", self})
	if err != nil || !asJSON || p.wants("memory") || !p.wants("idle") || p.together != 5 {
		t.Errorf("parse = %+v, %v, %v", p, asJSON, err)
	}
	for _, args := range [][]string{{"-rounds", "0"}, {"word"}, {"-ours", "/nonexistent/swtpm"}} {
		if _, _, err := parse(append([]string{"-ref", self, "-ours", self}, args...)); err == nil {
			t.Errorf("parse(%q) did not fail", args)
		}
	}
}
