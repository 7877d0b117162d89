package e2e_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestScripts runs testdata/*.txtar: the options of the classic command line and
// our verbs. In addition to testscript's own commands there are
//
//	await PATH | tcp:HOST:PORT     waits until a process listens, or the file exists and
//	                               not empty
//	await -gone PATH               waits until the file is missing
//	[!] cmd ADDR HEX...            sends TPM commands on one connection and prints the
//	                               responses in hex; "closed" if there is none
//	[!] req ADDR HEX...            the same with requests of the control channel
//	ports VAR...                   sets each variable to a free TCP port
//	signal NAME [PIDFILE]          sends a signal to the last process in the background,
//	                               or to the process of the file
//	mode OCTAL PATH                checks permission bits
//
// ADDR is a path or tcp:HOST:PORT. [root] holds if root runs the tests,
// [profiles] if libtpms has algorithm profiles.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:         "testdata",
		WorkdirRoot: harness.TempDir(t),
		Setup:       setupScript,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "cuse":
				_, err := os.Stat("/dev/cuse")
				return err == nil, nil
			case "vtpmx":
				_, err := os.Stat("/dev/vtpmx")
				return err == nil, nil
			case "profiles":
				_, version, _ := run(t, "version", "--json")
				return strings.Contains(version, `"profiles":true`), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await":  awaitCmd,
			"cmd":    cmdCmd,
			"req":    reqCmd,
			"ports":  portsCmd,
			"signal": signalCmd,
			"mode":   modeCmd,
			"silent": silentCmd,
		},
	})
}

// silentCmd checks that the last program has printed nothing on stderr, or that a log is
// empty. A disk may be slow at any time, and the line on that is no fault.
//
//	silent [log]
func silentCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: silent [log]")
	}
	file := "stderr"
	if len(args) == 1 {
		file = args[0]
	}
	if said := besides(ts.ReadFile(file)); said != "" {
		ts.Fatalf("%s is not empty: %s", file, said)
	}
}

// setupScript puts the programs under test in front and names commands.
func setupScript(e *testscript.Env) error {
	keys, err := filepath.Abs("testdata")
	if err != nil {
		return err
	}
	e.Setenv("PATH", os.Getenv(binVar)+":"+os.Getenv("PATH"))
	e.Setenv("KEYS", keys)
	for name, cmd := range map[string]string{
		"STARTUP20": startup20, "STARTUP12": startup12, "RANDOM": random20, "TICKS": ticks12,
		"DEFINE": define20, "INCREMENT": incr20, "READ": read20,
		"EXTEND": extend[v20], "READPCR": readPCR[v20], "ZERO": strings.Repeat("0", 64),
	} {
		e.Setenv(name, strings.ReplaceAll(cmd, " ", ""))
	}
	return os.Chmod(e.WorkDir, 0o777) // for processes that give up root
}

// TestEveryOptionIsTested checks that a script or a test uses each long option that the help of
// the classic interfaces names.
func TestEveryOptionIsTested(t *testing.T) {
	t.Parallel()
	_, help, _ := run(t, "socket", "--help")
	_, more, _ := run(t, "chardev", "--help")
	_, last, _ := run(t, "cuse", "--help")
	help += more + last
	options := regexp.MustCompile(`(?m)(?:^|\s)(--[a-z0-9-]+|-[a-zA-Z])\b`).FindAllStringSubmatch(help, -1)
	if len(options) < 15 {
		t.Fatalf("the help names %d options: %q", len(options), help)
	}
	var tests strings.Builder
	for _, pattern := range []string{"testdata/*.txtar", "*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			tests.WriteString(harness.Read(t, f))
		}
	}
	for _, o := range options {
		if !regexp.MustCompile(regexp.QuoteMeta(o[1]) + `[ ="]`).MatchString(tests.String()) {
			t.Errorf("%s has no test", o[1])
		}
	}
}

func awaitCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await [-gone] PATH | tcp:HOST:PORT")
	}
	var cond func() bool
	switch {
	case args[0] == "-gone" && len(args) == 2:
		cond = func() bool { _, err := os.Lstat(ts.MkAbs(args[1])); return errors.Is(err, os.ErrNotExist) }
	case strings.HasPrefix(args[0], "tcp:"):
		cond = func() bool { return listensTCP(strings.TrimPrefix(args[0], "tcp:")) }
	default:
		path := ts.MkAbs(args[0])
		cond = func() bool {
			fi, err := os.Lstat(path)
			return err == nil && (fi.Mode().IsRegular() && fi.Size() > 0 || fi.Mode()&os.ModeSocket != 0 && harness.Listens(path))
		}
	}
	ts.Check(harness.Until(cond))
}

// listensTCP reports whether a process listens at addr, by the kernel's lists. A connection
// would end an emulator with --terminate.
func listensTCP(addr string) bool {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	port, _ := strconv.Atoi(p)
	return harness.ListensTCP(port)
}

func cmdCmd(ts *testscript.TestScript, neg bool, args []string) {
	talk(ts, neg, args, func(conn net.Conn, b []byte) ([]byte, error) {
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
		return (&channel{Conn: conn}).response()
	})
}

func reqCmd(ts *testscript.TestScript, neg bool, args []string) {
	talk(ts, neg, args, func(conn net.Conn, b []byte) ([]byte, error) {
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
		rep := make([]byte, 4096)
		n, err := conn.Read(rep)
		return rep[:n], err
	})
}

// talk sends each message of args[1:] and prints what comes back. With neg the
// connection must fail at once.
func talk(ts *testscript.TestScript, neg bool, args []string, exchange func(net.Conn, []byte) ([]byte, error)) {
	if len(args) < 2 {
		ts.Fatalf("usage: ADDR HEX...")
	}
	network, addr := "unix", args[0]
	if a, ok := strings.CutPrefix(args[0], "tcp:"); ok {
		network, addr = "tcp", a
	} else {
		addr = ts.MkAbs(addr)
	}
	conn, err := net.DialTimeout(network, addr, harness.EventTimeout)
	if neg {
		if err == nil {
			_ = conn.Close()
			ts.Fatalf("somebody listens at %s", args[0])
		}
		return
	}
	ts.Check(err)
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	for _, message := range args[1:] {
		b, err := fromHex(message)
		ts.Check(err)
		rsp, err := exchange(conn, b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			ts.Fatalf("no answer to %s", message)
		}
		if err != nil && (errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)) {
			rsp, err = nil, nil
			_, _ = fmt.Fprintln(ts.Stdout(), "closed")
			continue
		}
		ts.Check(err)
		_, _ = fmt.Fprintln(ts.Stdout(), hex.EncodeToString(rsp))
	}
}

func portsCmd(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		port, release, err := harness.ReservePort(1)
		ts.Check(err)
		ts.Defer(release)
		ts.Setenv(name, strconv.Itoa(port))
	}
}

func signalCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: signal NAME [PIDFILE]")
	}
	sig := unix.SignalNum("SIG" + args[0])
	if len(args) > 1 {
		pid, err := strconv.Atoi(ts.ReadFile(args[1]))
		ts.Check(err)
		ts.Check(unix.Kill(pid, sig))
		return
	}
	cmds := ts.BackgroundCmds()
	if len(cmds) == 0 {
		ts.Fatalf("there is no process in the background")
	}
	ts.Check(cmds[len(cmds)-1].Process.Signal(sig))
}

func modeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL PATH")
	}
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	fi, err := os.Lstat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fi.Mode().Perm(); (got == os.FileMode(want)) == neg {
		ts.Fatalf("%s has mode %#o", args[1], got)
	}
}
