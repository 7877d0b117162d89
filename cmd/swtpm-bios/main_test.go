package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
	"golang.org/x/sys/unix"
)

// outcome is the result of a run of the program.
type outcome struct {
	Exit           int
	Stdout, Stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit %d, stdout %q, stderr %q", o.Exit, o.Stdout, o.Stderr)
}

// ours runs the program under test; env has the variables NAME=VALUE.
func ours(args []string, env ...string) outcome {
	var out, errs bytes.Buffer
	s := &cli.Streams{Name: "swtpm_bios", Out: &out, Err: &errs}
	code := 0
	if err := execute(context.Background(), s, args, lookup(env)); err != nil {
		code = 254
		if e, ok := errors.AsType[*program.ExitError](err); ok {
			code = e.Code
		}
	}
	return outcome{code, out.String(), errs.String()}
}

func lookup(env []string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, e := range env {
			if k, v, _ := strings.Cut(e, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

// TestSequence checks the bytes and the order of the commands.
func TestSequence(t *testing.T) {
	f := newFake(t, result(0, false))
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"", []string{startup12, enable12, present12, on12, activate}},
		{"-c -cs -u", []string{startup12, enable12, present12, on12, activate, selfTest, enable12, lock12}},
		{"-s", []string{"00c1 0000000c 00000099 0002", enable12, present12, on12, activate}},
		{"-d", []string{"00c1 0000000c 00000099 0003"}},
		{"-d -cs -u", []string{"00c1 0000000c 00000099 0003", selfTest, enable12, lock12}},
		{"-n", []string{enable12, present12, on12, activate}},
		{"-o -ea", []string{startup12}},
		{"-n -o", nil},
		{"-o -n", []string{enable12, present12, on12, activate}},
		{"-o -cs", []string{startup12, selfTest}},
		{"-ea", []string{startup12, enable12, present12, flags12, on12, activate}},
		{"--tpm2", []string{startup20}},
		{"--tpm2 -o -ea", []string{startup20}},
		{"--tpm2 -s", []string{"8001 0000000c 00000144 0001"}},
		{"--tpm2 -d", nil},
		{"--tpm2 -n -cs", []string{selfTst20}},
		{"-u --cs --tpm2", []string{startup20, selfTst20, auth20}},
	} {
		args := append([]string{"--unix", f.path}, strings.Fields(tt.args)...)
		got := ours(args)
		sent := f.commands()
		want := strings.ReplaceAll(strings.Join(tt.want, "|"), " ", "")
		if got != (outcome{}) || strings.Join(sent, "|") != want {
			t.Errorf("swtpm_bios %s: %v, sent %q, want %q", tt.args, got, sent, want)
		}
	}
	one, two := changePlatformAuth(), changePlatformAuth()
	if bytes.Equal(one, two) {
		t.Errorf("the same password twice: % x", one[29:])
	}
}

// TestRefusedCommands checks the messages about commands that the TPM refuses, that the
// sequence continues, and the exit codes.
func TestRefusedCommands(t *testing.T) {
	refuses := newFake(t, result(0x26, false))
	want := outcome{128, "", "" +
		"TPM_Startup(0x02) returned error code 0x00000026\n" +
		"TSC_PhysicalPresence(CMD_ENABLE) returned error code 0x00000026\n" +
		"TSC_PhysicalPresence(PRESENT) returned error code 0x00000026\n" +
		"TPM_GetCapability() returned error code 0x00000026\n" +
		"TPM_PhysicalEnable returned error code 0x00000026\n" +
		"TPM_PhysicalSetDeactivated returned error code 0x00000026\n" +
		"TPM_ContinueSelfTest returned error code 0x00000026\n" +
		"TSC_PhysicalPresence(CMD_ENABLE) returned error code 0x00000026\n" +
		"TSC_PhysicalPresence(NOT_PRESENT|LOCK) returned error code 0x00000026\n"}
	if got := ours([]string{"--unix", refuses.path, "-s", "-ea", "-cs", "-u"}); got != want {
		t.Errorf("TPM 1.2: %v, want %v", got, want)
	}
	want = outcome{128, "" +
		"TPM2_Startup returned error code 0x00000026\n" +
		"TPM2_IncrementalSelfTest returned error code 0x00000026\n" +
		"TPM2_HierarchyChangeAuth returned error code 0x00000026\n", ""}
	if got := ours([]string{"--unix", refuses.path, "--tpm2", "-cs", "-u"}); got != want {
		t.Errorf("TPM 2.0: %v, want %v", got, want)
	}

	reset := newFake(t, result(0, true))
	if got := ours([]string{"--unix", reset.path}); got != (outcome{}) {
		t.Errorf("a deactivated TPM without -ea: %v, want exit 0", got)
	}
	reset.commands()
	want = outcome{129, "TPM requires a reset\n", ""}
	if got := ours([]string{"--unix", reset.path, "-ea", "-cs", "-u"}); got != want {
		t.Errorf("a deactivated TPM: %v, want %v", got, want)
	}
	if n := len(reset.commands()); n != 6 {
		t.Errorf("a deactivated TPM got %d commands, want 6", n)
	}
}

// TestOddResponses checks the messages about invalid responses.
func TestOddResponses(t *testing.T) {
	long := string(harness.Unhex("00c4 00001000 00000000")) + strings.Repeat("x", tpm.MaxCommand-tpm.HeaderSize)
	for _, tt := range []struct{ name, rsp, want string }{
		{"none", "", "Returned packet is too short.\n"},
		{"9 bytes", string(harness.Unhex("00c4 0000000a 000000")), "Returned packet is too short.\n"},
		{"a byte missing", string(harness.Unhex("00c4 0000000b 00000000")), "Malformed response.\n"},
		{"a byte too many", string(harness.Unhex("00c4 0000000a 00000000 00")), "Malformed response.\n"},
		{"a size below that of the header", string(harness.Unhex("00c4 00000009 00000000")), "Malformed response.\n"},
		{"a huge size", string(harness.Unhex("00c4 ffffffff 00000000")), "Malformed response.\n"},
		{"the longest response", long, ""},
		{"another tag", string(harness.Unhex("8001 0000000a 00000000")), ""},
	} {
		f := newFake(t, func([]byte) []byte { return []byte(tt.rsp) })
		want := outcome{255, "", tt.want}
		if tt.want == "" {
			want.Exit = 0
		}
		for _, args := range [][]string{{"-o"}, {"-o", "--tpm2"}} {
			if got := ours(append(args, "--unix", f.path)); got != want {
				t.Errorf("%s, %q: %v, want %v", tt.name, args, got, want)
			}
		}
	}
	short := newFake(t, func(cmd []byte) []byte { return harness.Unhex("00c4 0000000a 00000000") })
	if got, want := ours([]string{"--unix", short.path, "-ea"}), (outcome{255, "", "Malformed response.\n"}); got != want {
		t.Errorf("flags that are missing: %v, want %v", got, want)
	}
}

// TestPieces checks that a response that arrives byte by byte, as over TCP, is read completely.
func TestPieces(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	want := append(harness.Unhex("00c4 0000000d 00000000"), "abc"...)
	go func() {
		for i := range want {
			far.Write(want[i : i+1])
		}
	}()
	if got, err := readResponse(near); err != nil || !bytes.Equal(got, want) {
		t.Errorf("readResponse = % x, %v, want % x", got, err, want)
	}
}

// FuzzReadResponse checks that a response is one whole message, in whatever pieces it arrives.
func FuzzReadResponse(f *testing.F) {
	f.Add(harness.Unhex("00c40000000a00000000"), 1)
	f.Add(harness.Unhex("80010000000c000000001234"), 10)
	f.Add(harness.Unhex("80010000000a0000000000"), 3)
	f.Add([]byte(nil), 0)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		r := &pieces{b, min(max(piece, 1), 1<<13)}
		got, err := readResponse(r)
		if err != nil {
			return
		}
		h, ok := tpm.ParseHeader(b)
		if !ok || int(h.Size) != len(got) || !bytes.Equal(got, b[:len(got)]) {
			t.Errorf("readResponse(% x) = % x, want its first %d bytes", b, got, h.Size)
		}
	})
}

// pieces is a reader that returns at most n bytes at once.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	return bytes.NewReader(p.b[:min(p.n, len(p.b))]).Read(p.take(b))
}

// take copies the next bytes to b.
func (p *pieces) take(b []byte) []byte {
	n := min(p.n, len(p.b), len(b))
	defer func() { p.b = p.b[n:] }()
	return b
}

// TestSilence checks that the program ends if the TPM does not answer.
func TestSilence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = exchange(context.Background(), cli.Target{Unix: &path}, harness.Unhex("00c10000000c000000990001"), 10*time.Millisecond)
	if err == nil || err.Error() != "TPM did not respond after 0 seconds." {
		t.Errorf("a silent TPM: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- tool.Run(ctx, []string{"--unix", path}, run) }()
	cancel()
	if e, ok := errors.AsType[*program.ExitError](<-done); !ok || e.Code != 255 {
		t.Errorf("interrupted: %v, want exit code 255", e)
	}
}

// TestTarget checks which target is used, and the messages if it cannot be used.
func TestTarget(t *testing.T) {
	f := newFake(t, result(0, false))
	none := t.TempDir() + "/none"
	dev := "Unable to open device '" + none + "'.\n"
	for _, tt := range []struct {
		args string
		env  []string
		want outcome
	}{
		{"--unix " + f.path, nil, outcome{}},
		{"--unix " + none, nil, outcome{255, "", "Could not connect using UnixIO socket.\n"}},
		{"--unix " + strings.Repeat("a", 108), nil, outcome{255, "", "Socket path is too long. \"" + strings.Repeat("a", 108) + "\" has 108 bytes, the limit is 107.\n"}},
		{"--unix " + strings.Repeat("a", 107), nil, outcome{255, "", "Could not connect using UnixIO socket.\n"}},
		{"--unix " + f.path + " --tcp 127.0.0.1:1", nil, outcome{255, "", "Could not connect using TCP socket.\n"}},
		{"--tcp 127.0.0.1:1 --unix " + f.path + " --tpm-device " + none, nil, outcome{255, "", dev}},
		{"--tpm-device=", nil, outcome{255, "", "Unable to open device ''.\n"}},
		{"", []string{"TPM_DEVICE=" + none}, outcome{255, "", dev}},
		{"", []string{"TPM_DEVICE="}, outcome{255, "", "Unable to open device ''.\n"}},
		{"", []string{"TPM_DEVICE=" + none, "TCSD_USE_TCP_DEVICE=", "TCSD_TCP_DEVICE_PORT=1"},
			outcome{255, "", "Could not connect using TCP socket.\n"}},
		{"", []string{"TCSD_USE_TCP_DEVICE=1", "TCSD_TCP_DEVICE_PORT=x"}, outcome{255, "", "Invalid port 'x'\n"}},
		{"--unix " + f.path, []string{"TCSD_USE_TCP_DEVICE=1", "TCSD_TCP_DEVICE_PORT=x"}, outcome{}},
		{"--tcp x:", nil, outcome{1, "", "Invalid port ''\n"}},
		{"--tcp x:65536 -h", nil, outcome{1, "", "Port '65536' outside valid range.\n"}},
	} {
		if got := ours(strings.Fields("-o "+tt.args), tt.env...); got != tt.want {
			t.Errorf("swtpm_bios -o %s with %q: %v, want %v", tt.args, tt.env, got, tt.want)
		}
	}
	var to cli.Target
	fromEnvironment(&to, lookup(nil))
	if *to.Device != "/dev/tpm0" {
		t.Errorf("without anything the device is %s, want /dev/tpm0", *to.Device)
	}
	to = cli.Target{}
	fromEnvironment(&to, lookup([]string{"TCSD_USE_TCP_DEVICE="}))
	if to.TCP.String() != "localhost:6545" {
		t.Errorf("TCP without more is %s, want localhost:6545", to.TCP)
	}
}

// TestHelpVersionMisuse checks the output and the exit codes of -h, -v and unknown options.
func TestHelpVersionMisuse(t *testing.T) {
	help := tool.Version + tool.Head + cli.Usage(new(options).table())
	for _, tt := range []struct {
		args string
		want outcome
	}{
		{"-h --bogus", outcome{0, help, ""}},
		{"-u -v --bogus", outcome{0, tool.Version, ""}},
		{"-bogus -h", outcome{1, help, "swtpm_bios: unrecognized option '-bogus'\n"}},
		{"--tcp", outcome{1, help, "swtpm_bios: option '--tcp' requires an argument\n"}},
		{"--tp x", outcome{1, help, "swtpm_bios: option '--tp' is ambiguous; possibilities: '--tpm-device' '--tpm2'\n"}},
		{"-c=1", outcome{1, help, "swtpm_bios: option '-c' doesn't allow an argument\n"}},
	} {
		if got := ours(strings.Fields(tt.args)); got != tt.want {
			t.Errorf("swtpm_bios %s = %v, want %v", tt.args, got, tt.want)
		}
	}
	if !strings.HasPrefix(tool.Version, "TPM emulator BIOS emulator version "+program.Version+", Copyright (c) ") {
		t.Errorf("the version line is %q", tool.Version)
	}
}

// TestDevice checks commands to a device, for which a terminal stands: both accept a command in
// one write and return the response to a read. The test does not cover the rest of a TPM's driver,
// such as that a second process cannot open it.
func TestDevice(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs a pseudo terminal:", err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip("needs a pseudo terminal:", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("needs a pseudo terminal:", err)
	}
	defer slave.Close() // keeps the settings
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, &unix.Termios{Cflag: unix.CS8 | unix.CREAD}); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() {
		b := make([]byte, 64)
		n, _ := master.Read(b)
		got <- b[:n]
		master.Write(harness.Unhex("00c4 0000000a 00000026"))
	}()
	want := outcome{128, "", "TPM_Startup(0x01) returned error code 0x00000026\n"}
	if o := ours([]string{"-o"}, "TPM_DEVICE="+name); o != want {
		t.Errorf("a device: %v, want %v", o, want)
	}
	if b := <-got; !bytes.Equal(b, harness.Unhex(startup12)) {
		t.Errorf("the device got % x, want %s", b, startup12)
	}
	_, err = exchange(context.Background(), cli.Target{Device: &name}, harness.Unhex(startup12), 10*time.Millisecond)
	if err == nil || err.Error() != "TPM did not respond after 0 seconds." {
		t.Errorf("a silent device: %v", err)
	}
}

// TestNoDevice checks the messages about files that are not a TPM, and that a regular file is not written to.
func TestNoDevice(t *testing.T) {
	file := t.TempDir() + "/f"
	defer func() {
		if b, err := os.ReadFile(file); err != nil || string(b) != "contents" {
			t.Errorf("the file has %q, %v", b, err)
		}
	}()
	if err := os.WriteFile(file, []byte("contents"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		file:        "Unable to open device '" + file + "'. It is not the character device of a TPM.\n",
		"/dev/null": "Returned packet is too short.\n",
		"/dev/full": "Write to file descriptor failed.\n",
	} {
		if _, err := os.Stat(name); err != nil {
			continue // a small container may lack it
		}
		if got := ours([]string{"--tpm-device", name}); got != (outcome{255, "", want}) {
			t.Errorf("--tpm-device %s: %v, want %q", name, got, want)
		}
	}
}
