package cli

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// table returns options that record their calls in log.
func table(log *[]string) []Option {
	set := func(name string) func(arg, file string) error {
		return func(arg, file string) error {
			switch arg {
			case "stop":
				return ErrStop
			case "fail":
				return errors.New("refused")
			}
			*log = append(*log, strings.TrimRight(name+" "+arg+" "+file, " "))
			return nil
		}
	}
	return []Option{
		{Name: "tpm-device", Arg: "<device>", Help: "a device", Set: set("tpm-device")},
		{Name: "tcp", Arg: "<address>", Help: "an address;\ntwo lines", Set: set("tcp")},
		{Name: "c", Help: "clear", Set: set("c")},
		{Name: "cs", Help: "self test", Set: set("cs")},
		{Name: "save", Arg: "<type>", File: "<file>", Help: "save", Set: set("save")},
	}
}

// TestParse checks the messages of glibc's getopt_long_only.
func TestParse(t *testing.T) {
	for _, tt := range []struct{ args, want, err string }{
		{"-c --cs --c -cs", "c; cs; c; cs", ""},
		{"--tcp a -tcp=b --tc c", "tcp a; tcp b; tcp c", ""},
		{"--tcp= x", "tcp; operand x", ""},
		{"--tcp --cs -c", "tcp --cs; c", ""},
		{"x -c - -- -c --", "c; operand x; operand -; operand -c; operand --", ""},
		{"--save a b -save=c d", "save a b; save c d", ""},
		{"--save a -c", "", "Missing filename argument for --save option"},
		{"--save a", "", "Missing filename argument for --save option"},
		{"--tcp stop --bogus", "", ""},
		{"-c --tcp fail -c", "c", "refused"},
		{"--bogus=1 -c", "wrong: unrecognized option '--bogus=1'; c", ""},
		{"-t x", "wrong: option '-t' is ambiguous; possibilities: '-tpm-device' '-tcp'; operand x", ""},
		{"--c=1", "wrong: option '--c' doesn't allow an argument", ""},
		{"-tp", "wrong: option '-tpm-device' requires an argument", ""},
	} {
		var log []string
		g := Getopt{OneDash: true, Wrong: func(err error) error {
			log = append(log, "wrong: "+err.Error())
			return nil
		}}
		operands, err := g.Parse(table(&log), strings.Fields(tt.args))
		for _, o := range operands {
			log = append(log, "operand "+o)
		}
		if got := strings.Join(log, "; "); got != tt.want || fmt.Sprint(err) != orNil(tt.err) {
			t.Errorf("Parse(%s): %q, error %v, want %q, %q", tt.args, got, err, tt.want, orNil(tt.err))
		}
	}
	if _, err := (Getopt{OneDash: true}).Parse(table(new([]string)), []string{"--x", "--y"}); err == nil || err.Error() != "unrecognized option '--x'" {
		t.Errorf("Parse with the first wrong option refused = %v", err)
	}
}

func orNil(s string) string {
	if s == "" {
		return "<nil>"
	}
	return s
}

// FuzzParse checks that the words after "--" are operands, unless "--" is an argument.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "-c", "--tcp a", "x --save b c", "--", "-", "--=", "-=x", "--tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var log []string
		args := strings.Fields(s)
		skip := Getopt{OneDash: true, Wrong: func(err error) error { return nil }}
		before, err := skip.Parse(table(&log), args)
		if err != nil || slices.Contains(args, "--") || slices.Contains(args, "stop") || strings.Contains(s, "=stop") {
			return
		}
		missing := false
		all, err := skip.Parse(table(&log), append(args, "--", "-c", "x"))
		note := Getopt{OneDash: true, Wrong: func(err error) error {
			missing = missing || strings.Contains(err.Error(), "requires an argument")
			return nil
		}}
		_, err2 := note.Parse(table(&log), args)
		if missing {
			return // "--" was taken for it
		}
		if want := append(before, "-c", "x"); err != nil || err2 != nil || !slices.Equal(all, want) {
			t.Errorf("operands of %q = %q, %v, want %q", s, all, err, want)
		}
	})
}

// TestUsage checks how a table of options is printed.
func TestUsage(t *testing.T) {
	want := "" +
		"--tpm-device <device> : a device\n" +
		"--tcp <address>       : an address;\n" +
		"                        two lines\n" +
		"-c                    : clear\n" +
		"-cs                   : self test\n" +
		"--save <type> <file>  : save\n"
	if got := Usage(table(nil)); got != want {
		t.Errorf("Usage = %q, want %q", got, want)
	}
}

// TestTarget checks the addresses that a target's options give.
func TestTarget(t *testing.T) {
	for _, tt := range []struct{ arg, want, err string }{
		{"h:1", "h:1", ""},
		{"h", "h:6545", ""},
		{":", "127.0.0.1:6545", ""},
		{"", "127.0.0.1:6545", ""},
		{":65535", "127.0.0.1:65535", ""},
		{"::1:7", "[::1]:7", ""},
		{"[::1]:7", "[::1]:7", ""},
		{"h:", "", "Invalid port ''"},
		{"h:1x", "", "Invalid port '1x'"},
		{"h:65536", "", "Port '65536' outside valid range."},
		{"h:99999999999999999999", "", "Port '99999999999999999999' outside valid range."},
	} {
		var to Target
		_, err := Getopt{OneDash: true}.Parse(to.Options("6545"), []string{"--tcp=" + tt.arg})
		if fmt.Sprint(err) != orNil(tt.err) || err == nil && to.TCP.String() != tt.want {
			t.Errorf("--tcp=%s is %v, %v, want %s, %s", tt.arg, to.TCP, err, tt.want, orNil(tt.err))
		}
	}
	var to Target
	if _, err := (Getopt{OneDash: true}).Parse(to.Options("1"), []string{"--tpm-device", "", "-unix", "p"}); err != nil || *to.Device != "" || *to.Unix != "p" || to.TCP != nil {
		t.Errorf("target %+v, %v, want a device and a Unix socket", to, err)
	}
}

// TestResolveError checks that an unknown host has the words of getaddrinfo(3).
func TestResolveError(t *testing.T) {
	unknown := &net.OpError{Err: &net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}}
	if err := ResolveError("h", unknown); err == nil || err.Error() != "getaddrinfo failed on host 'h': Name or service not known" {
		t.Errorf("ResolveError of an unknown host = %v", err)
	}
	if err := ResolveError("h", unix.ECONNREFUSED); err != nil {
		t.Errorf("ResolveError of a refused connection = %v, want nil", err)
	}
}

// TestStrerror checks the texts of errors.
func TestStrerror(t *testing.T) {
	for err, want := range map[error]string{
		fmt.Errorf("x: %w", unix.ETIMEDOUT): "Connection timed out",
		unix.EISDIR:                         "Is a directory",
		errors.New("lower case"):            "lower case",
	} {
		if got := Strerror(err); got != want {
			t.Errorf("Strerror(%v) = %q, want %q", err, got, want)
		}
	}
}
