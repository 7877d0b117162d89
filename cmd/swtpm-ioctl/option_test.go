package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// TestParse checks the target and the command that command lines give.
func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args string
		want func(o *options) bool
	}{
		{"--unix p -c", func(o *options) bool { return *o.target.Unix == "p" && o.command.name == "c" }},
		{"-unix=p --c", func(o *options) bool { return *o.target.Unix == "p" && o.command.name == "c" }},
		{"--un p -C", func(o *options) bool { return *o.target.Unix == "p" && o.command.name == "C" }},
		{"-stop", func(o *options) bool { return o.command.name == "stop" }},
		{"-st", func(o *options) bool { return o.command.name == "stop" }},
		{"-s", func(o *options) bool { return o.command.name == "s" }},
		{"--info=0x1F", func(o *options) bool { return o.command.name == "info" && o.number == 0x1f }},
		{"--inf 037", func(o *options) bool { return o.number == 31 }},
		{"--info 18446744073709551615", func(o *options) bool { return o.number == 1<<64-1 }},
		{"--info -1", func(o *options) bool { return o.number == 1<<64-1 }},
		{"--info +0xb", func(o *options) bool { return o.number == 11 }},
		{"-h -", func(o *options) bool { return o.command.name == "h" && o.arg == "-" }},
		{"-h --stop", func(o *options) bool { return o.command.name == "h" && o.arg == "--stop" }},
		{"dev1 -c dev2", func(o *options) bool { return o.operand == "dev1" }},
		{"-c -- -e", func(o *options) bool { return o.command.name == "c" && o.operand == "-e" }},
		{"--save permanent f", func(o *options) bool { return o.command.name == "save" && o.arg == "permanent" && o.file == "f" }},
		{"f --load=volatile g", func(o *options) bool { return o.arg == "volatile" && o.file == "g" && o.operand == "f" }},
		{"-r 3x", func(o *options) bool { return o.locality == 3 }},
		{"-l 4", func(o *options) bool { return o.command.name == "l" && o.locality == 4 }},
		{"-b -1", func(o *options) bool { return o.number == 1<<32-1 }},
		{"-b 99999999999", func(o *options) bool { return o.number == 1<<32-1 }},
		{"--lock-storage 7", func(o *options) bool { return o.command.name == "lock-storage" && o.number == 7 }},
		{"--tcp h:1 -c", func(o *options) bool { return o.target.TCP.Host == "h" && o.target.TCP.Port == "1" }},
		{"--tcp h -c", func(o *options) bool { return o.target.TCP.Host == "h" && o.target.TCP.Port == "6546" }},
		{"--tcp : -c", func(o *options) bool { return o.target.TCP.Host == "127.0.0.1" && o.target.TCP.Port == "6546" }},
		{"--tcp :65535 -c", func(o *options) bool { return o.target.TCP.Host == "127.0.0.1" && o.target.TCP.Port == "65535" }},
		{"--tcp ::1:7 -c", func(o *options) bool { return o.target.TCP.Host == "::1" && o.target.TCP.Port == "7" }},
		{"--tcp [::1]:7 -c", func(o *options) bool { return o.target.TCP.Host == "::1" && o.target.TCP.Port == "7" }},
		{"--tpm-device d -c", func(o *options) bool { return *o.target.Device == "d" }},
	} {
		var errs bytes.Buffer
		s := &cli.Streams{Name: "swtpm_ioctl", Err: &errs}
		o, err := parse(s, strings.Fields(tt.args))
		if err != nil || errs.Len() > 0 || !tt.want(o) {
			t.Errorf("parse(%s) = %+v, %v, %q on stderr", tt.args, o, err, &errs)
		}
	}
}

// TestParseErrors compares messages with the messages of swtpm_ioctl 0.7.1 on glibc.
func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"-r", "swtpm_ioctl: option '-r' requires an argument\nNo valid command.\n"},
		{"--unix", "swtpm_ioctl: option '--unix' requires an argument\nNo valid command.\n"},
		{"--sa", "swtpm_ioctl: option '--save' requires an argument\nNo valid command.\n"},
		{"-r 3 --bogus --unix", "swtpm_ioctl: unrecognized option '--bogus'\n" +
			"swtpm_ioctl: option '--unix' requires an argument\nError: Missing device name.\n"},
		{"--stop=1", "swtpm_ioctl: option '--stop' doesn't allow an argument\nNo valid command.\n"},
		{"-xyz=1", "swtpm_ioctl: unrecognized option '-xyz=1'\nNo valid command.\n"},
		{"--t x", "swtpm_ioctl: option '--t' is ambiguous; possibilities: '--tpm-device' '--tcp'\nNo valid command.\n"},
		{"-l 5 -l 5", "Locality outside valid range of [0..4].\n"},
		{"-l 1 -l 1", "Only one command may be given.\n"},
		{"-l -1", "Locality outside valid range of [0..4].\n"},
		{"-l -", "Could not get locality number from -.\n"},
		{"-l +-1", "Could not get locality number from +-1.\n"},
		{"--save permanent -c", "Missing filename argument for --save option\n"},
		{"--load permanent", "Missing filename argument for --load option\n"},
		{"--info 0x -c", "Cannot parse info flags.\n"},
		{"--info 1_0", "Cannot parse info flags.\n"},
		{"--info 0x_1", "Cannot parse info flags.\n"},
		{"--info -", "Cannot parse info flags.\n"},
		{"--info 18446744073709551616", "Cannot parse info flags.\n"},
		{"--info 0b1", "Cannot parse info flags.\n"},
		{"--tcp host: -c", "Invalid port ''\n"},
		{"--tcp h:65536 -c", "Port '65536' outside valid range.\n"},
		{"--tcp h:99999999999999999999 -c", "Port '99999999999999999999' outside valid range.\n"},
		{"--tpm-device /nonexistent --unix /nope -c", "Unable to open device '/nonexistent'.\n"},
		{"-h x /nonexistent", "Unable to open device '/nonexistent'.\n"},
	} {
		if got, want := ours(strings.Fields(tt.args), ""), (outcome{1, "", tt.want}); got != want {
			t.Errorf("swtpm_ioctl %s = %v, want %v", tt.args, got, want)
		}
	}
}

// FuzzScanUint checks that text after a number does not change it.
func FuzzScanUint(f *testing.F) {
	for _, s := range []string{"", "0", "4", " 12", "+7", "-1", "+-1", "99999999999", "3x", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := scanUint(s)
		if m, ok2 := scanUint(s + "x"); m != n || ok != ok2 {
			t.Errorf("scanUint(%q) = %d, %v, with x after it %d, %v", s, n, ok, m, ok2)
		}
	})
}
