package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
)

// outcome is the result of a run of the program.
type outcome struct {
	Exit           int
	Stdout, Stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit %d, stdout %q, stderr %q", o.Exit, o.Stdout, o.Stderr)
}

// ours runs the program under test.
func ours(args []string, stdin string) outcome {
	var out, errs bytes.Buffer
	s := &cli.Streams{Name: "swtpm_ioctl", In: strings.NewReader(stdin), Out: &out, Err: &errs}
	exit := 0
	if err := run(context.Background(), s, args); err != nil {
		exit = 255
		if e, ok := errors.AsType[*program.ExitError](err); ok {
			exit = e.Code
		}
	}
	return outcome{exit, out.String(), errs.String()}
}

// fake listens on a Unix socket and answers each connection with rep after the first read.
// With an empty rep it reads until the client disconnects.
func fake(t *testing.T, rep []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ctrl")
	l, err := net.Listen("unix", path)
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
			if len(rep) > 0 {
				conn.Read(make([]byte, 1<<16))
				conn.Write(rep)
			} else {
				io.Copy(io.Discard, conn)
			}
			conn.Close()
		}
	}()
	return path
}

// TestRefused checks that calls that swtpm_ioctl refused are refused with the same output. The
// file has the output of swtpm_ioctl 0.11.0 and 0.7.1.
func TestRefused(t *testing.T) {
	b, err := os.ReadFile("testdata/refused.json")
	if err != nil {
		t.Fatal(err)
	}
	var records []struct {
		Swtpm  string
		Argv   []string
		Stderr string
	}
	if err := json.Unmarshal(b, &records); err != nil {
		t.Fatal(err)
	}
	ctrl := fake(t, nil)
	for _, r := range records {
		t.Run(strings.Join(r.Argv, " "), func(t *testing.T) {
			work := filepath.Dir(ctrl)
			var args []string
			for _, a := range r.Argv {
				args = append(args, strings.ReplaceAll(a, "WORK", work))
			}
			if got, want := ours(args, ""), (outcome{1, "", r.Stderr}); got != want {
				t.Errorf("swtpm_ioctl %q = %v, want %v", args, got, want)
			}
			if _, err := os.Stat(filepath.Join(work, "x")); err == nil {
				t.Error("a file was created for a type that does not exist")
			}
		})
	}
}

// TestMessages checks the messages about errors of a server, and about a server that is newer
// than the installed swtpm.
func TestMessages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	for _, tt := range []struct {
		args string
		rep  string
		want outcome
	}{
		{"-c", "\x00\x00\x00\x00\x00\x01\xff\xff", outcome{0, "ptm capability is 0x1ffff\n", ""}},
		{"-g", "\x00\x00\x00\x00\x00\x00\x00\x03", outcome{0, "ptm configuration flags: 0x3\n", ""}},
		{"-e", "\x00\x00\x00\x00\x01\x00\x00\x00", outcome{0, "tpmEstablished is 1\n", ""}},
		{"--lock-storage 3", "\x00\x00\x00\x00", outcome{0, "", ""}},
		{"--lock-storage 3", "\x00\x00\x00\x09", outcome{1, "", "TPM result from PTM_LOCK_STORAGE: 0x9\n"}},
		{"--lock-storage x", "", outcome{1, "", "Could not parse lock retries from x.\n"}},
		{"-b x", "", outcome{1, "", "Could not get buffersize from x.\n"}},
		{"-c", "\x00\x00\x00\x09", outcome{1, "", "TPM result from PTM_GET_CAPABILITY: 0x9\n"}},
		{"-i", "\x00\x00\x01\x01", outcome{1, "", "TPM result from PTM_INIT: 0x101\n"}},
		{"-s", "\x00\x00\x00\x09", outcome{1, "", "TPM result from PTM_SHUTDOWN: 0x9\n"}},
		{"--stop", "\x00\x00\x00\x09", outcome{1, "", "TPM result from PTM_STOP: 0x9\n"}},
		{"-e", "\x00\x00\x00\x0a", outcome{1, "", "TPM result from PTM_GET_TPMESTABLISHED: 0xa\n"}},
		{"-r 0", "\x00\x00\x00\x3d", outcome{1, "", "TPM result from PTM_RESET_TPMESTABLISHED: 0x3d\n"}},
		{"-l 4", "\x00\x00\x00\x3d", outcome{1, "", "TPM result from PTM_SET_LOCALITY: 0x3d\n"}},
		{"-v", "\x00\x00\x00\x0a", outcome{1, "", "TPM result from PTM_STORE_VOLATILE: 0xa\n"}},
		{"-C", "\x00\x00\x00\x0a", outcome{1, "", "TPM result from PTM_CANCEL_TPM_CMD: 0xa\n"}},
		{"-h x", "\x00\x00\x00\x0a", outcome{1, "", "TPM result from PTM_HASH_START: 0xa\n"}},
		{"-g", "\x00\x00\x00\x03", outcome{1, "", "TPM result from PTM_GET_CONFIG: 0x3\n"}},
		{"-b 0", "\x00\x00\x00\x03", outcome{1, "", "TPM result from PTM_SET_BUFFERSIZE: 0x3\n"}},
		{"--info 1", "\x00\x00\x00\x17", outcome{1, "", "TPM result from PTM_GET_INFO: 0x17\n"}},
		{"--save permanent " + file, "\x00\x00\x00\x09", outcome{1, "", "TPM result from PTM_GET_STATEBLOB: 0x9\n"}},
		{"--save permanent " + file, "\x00\x00\x08\x00", outcome{0, "", ""}},
		{"--load permanent " + file, "\x00\x00\x00\x09", outcome{1, "", "TPM result from PTM_SET_STATEBLOB: 0x9\n"}},
		{"-i", "\x00\x00", outcome{1, "",
			"Could not execute PTM_INIT: INIT: unexpected reply: the server closed the connection after 2 of 4 bytes\n"}},
		{"-e", "\x00\x00\x00\x00\x01", outcome{1, "", "Could not execute PTM_GET_ESTABLISHED: " +
			"GET_TPMESTABLISHED: unexpected reply: the server closed the connection after 5 of 8 bytes\n"}},
		{"-r 3", "\x00", outcome{1, "", "Could not execute PTM_RESET_ESTABLISHED: " +
			"RESET_TPMESTABLISHED: unexpected reply: the server closed the connection after 1 of 4 bytes\n"}},
		{"-h x", "\x00", outcome{1, "", "Could not execute ioctl PTM_HASH_START: " +
			"HASH_START: unexpected reply: the server closed the connection after 1 of 4 bytes\n"}},
		{"--save permanent /nonexistent/f", "x", outcome{1, "",
			"Could not open file '/nonexistent/f' for writing: No such file or directory\n"}},
		{"--load permanent /nonexistent/f", "x", outcome{1, "",
			"Could not open file '/nonexistent/f' for reading: No such file or directory\n"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := append([]string{"--unix", fake(t, []byte(tt.rep))}, strings.Fields(tt.args)...)
			if got := ours(args, ""); got != tt.want {
				t.Errorf("swtpm_ioctl %s = %v, want %v", tt.args, got, tt.want)
			}
		})
	}
	if st, err := os.Stat(file); err != nil || st.Size() != 0 || st.Mode().Perm() != 0o600 {
		t.Errorf("the file of --save: %v, %v, want an empty one of mode 0600", st, err)
	}
}

// TestWriteFails checks that a result that could not be written is an error.
func TestWriteFails(t *testing.T) {
	blob := "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01x"
	args := []string{"--unix", fake(t, []byte(blob)), "--save", "permanent", "/dev/full"}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full on this machine:", err)
	}
	want := outcome{1, "", "Could not write to file '/dev/full': No space left on device\n"}
	if got := ours(args, ""); got != want {
		t.Errorf("swtpm_ioctl %q = %v, want %v", args, got, want)
	}
}

// TestHelpAndVersion checks that --help and --version print their text and ignore the other
// options.
func TestHelpAndVersion(t *testing.T) {
	if got, want := ours([]string{"--version", "-c", "-c"}, ""), (outcome{0, tool.Version, ""}); got != want {
		t.Errorf("--version = %v, want %v", got, want)
	}
	if got, want := ours([]string{"-c", "--help"}, ""), (outcome{0, tool.Version + tool.Head + cli.Usage((&options{}).table()), ""}); got != want {
		t.Errorf("--help = %v, want %v", got, want)
	}
	if !strings.HasPrefix(tool.Version, "TPM emulator control tool version "+program.Version+", Copyright (c) ") {
		t.Errorf("the version line is %q", tool.Version)
	}
}

// TestLongPath checks the messages about a path of 107 bytes, the limit, and one of 108.
func TestLongPath(t *testing.T) {
	for n, want := range map[int]string{
		107: "Connect failed: No such file or directory\n",
		108: "Socket path is too long. \"" + strings.Repeat("a", 108) + "\" has 108 bytes, the limit is 107.\n",
	} {
		got := ours([]string{"--unix", strings.Repeat("a", n), "-c"}, "")
		if got != (outcome{1, "", want}) {
			t.Errorf("path of %d bytes = %v, want %q", n, got, want)
		}
	}
}

// TestInterrupted checks that the program ends with its context while the server does not
// answer.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	args := []string{"--unix", fake(t, nil), "-c"}
	done := make(chan error)
	go func() { done <- tool.Run(ctx, args, run) }()
	cancel()
	if e, ok := errors.AsType[*program.ExitError](<-done); !ok || e.Code != 1 {
		t.Errorf("interrupted: %v, want exit code 1", e)
	}
}

// TestNoDevice checks that a file that is no device is an error.
func TestNoDevice(t *testing.T) {
	name := t.TempDir() + "/f"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := outcome{1, "", "Could not execute PTM_GET_CAPABILITY: Inappropriate ioctl for device\n"}
	for _, args := range [][]string{{"--tpm-device", name, "-c"}, {"-c", name}} {
		if got := ours(args, ""); got != want {
			t.Errorf("swtpm_ioctl %q = %v, want %v", args, got, want)
		}
	}
}
