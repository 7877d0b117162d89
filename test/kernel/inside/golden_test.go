package inside_test

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Each file is a dialogue with CUSE devices: lines "> step" that are done in order, and
// after each the answer of the reference: swtpm 0.10.2, built with its CUSE interface
// and libtpms 0.10, and its swtpm_ioctl, in a machine as this one. Where ours is meant
// to answer something else, lines of "! " have it, none if it is a lone "!", and a "# "
// line the reason.
//
//go:embed testdata/*.txt
var dialogues embed.FS

// TestCUSEGolden checks that our devices answer as the reference did. With SWTPM_GOLDEN_RECORD it
// prints the answers of the swtpm in PATH.
func TestCUSEGolden(t *testing.T) {
	for _, name := range []string{"cuse20", "cuse12", "cuselock", "cusepieces"} {
		t.Run(name, func(t *testing.T) {
			text, err := dialogues.ReadFile("testdata/" + name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			s := &stage{devices: map[string]*cuseDevice{}, states: map[string]string{}, fd: -1}
			record := os.Getenv("SWTPM_GOLDEN_RECORD") != ""
			for _, l := range parseDialogue(string(text)) {
				got := s.act(t, l.step)
				switch {
				case record:
					fmt.Printf("%s: > %s\n%s", name, l.step, indent(name+": ", got))
				case got != l.want:
					t.Errorf("line %d: %s\ngot:\n%swant:\n%s", l.number, l.step, got, l.want)
				}
			}
		})
	}
}

func indent(with, text string) string {
	if text == "" {
		return ""
	}
	return with + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+with) + "\n"
}

// exchanged is a step and what is to come of it, in whole lines.
type exchanged struct {
	number     int
	step, want string
}

func parseDialogue(text string) (all []exchanged) {
	var reference, ours string
	differs := false
	end := func() {
		if differs {
			reference = ours
		}
		if len(all) > 0 {
			all[len(all)-1].want = reference
		}
		reference, ours, differs = "", "", false
	}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "> "):
			end()
			all = append(all, exchanged{number: i + 1, step: line[2:]})
		case line == "!": // nothing
			differs = true
		case strings.HasPrefix(line, "! "):
			ours, differs = ours+line[2:]+"\n", true
		case line != "" && !strings.HasPrefix(line, "#"):
			reference += line + "\n"
		}
	}
	end()
	return all
}

// stage has the devices of a dialogue, of which one is talked to.
type stage struct {
	devices map[string]*cuseDevice
	states  map[string]string
	now     *cuseDevice
	fd      int // the device, open; -1 if it is not
}

// act does one step and returns what came of it, in lines.
func (s *stage) act(t *testing.T, step string) string {
	t.Helper()
	words := strings.Fields(step)
	args := words[1:]
	switch words[0] {
	case "device": // NAME [state=OTHER] OPTION…: starts one
		name, args := args[0], args[1:]
		s.states[name] = stateDir(t)
		if len(args) > 0 && strings.HasPrefix(args[0], "state=") {
			s.states[name] = s.states[strings.TrimPrefix(args[0], "state=")]
			args = args[1:]
		}
		s.devices[name] = startCUSE(t, s.states[name], args...)
		s.now = s.devices[name]
	case "use": // NAME: talks to that one
		s.now = s.devices[args[0]]
	case "file": // NAME SIZE [HEX]: writes one that has HEX and then zeros
		size, _ := strconv.Atoi(args[1])
		b := append(fromHex(t, strings.Join(args[2:], "")), make([]byte, size)...)[:size]
		if err := os.WriteFile(args[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
	case "size": // FILE
		b, err := os.ReadFile(args[0])
		switch {
		case err != nil:
			return "no file\n"
		case len(b) == 0:
			return "empty\n"
		}
		return fmt.Sprintf("%t: more than 1000 bytes\n", len(b) > 1000)
	case "state": // lists the files of the state; the boot ledger writes its files a moment later
		files, _ := filepath.Glob(s.states[args[0]] + "/*")
		out := ""
		for _, f := range files {
			if !strings.Contains(f, ".boot-") {
				out += filepath.Base(f) + "\n"
			}
		}
		return out
	case "ctl": // ARGUMENT…: swtpm_ioctl
		return s.ctl(args)
	default:
		return s.talk(t, step)
	}
	return ""
}

// talk takes a step that concerns the device in use.
func (s *stage) talk(t *testing.T, step string) string {
	t.Helper()
	words := strings.Fields(step)
	args := words[1:]
	switch words[0] {
	case "open":
		return s.open(t)
	case "reopen": // while it is open
		fd, err := unix.Open(s.now.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return outcome(err)
	case "close":
		_ = unix.Close(s.fd)
		s.fd = -1
	case "write": // HEX [SIZE]: what is sent ends in zeros if SIZE is given
		b := fromHex(t, args[0])
		if len(args) > 1 {
			n, _ := strconv.Atoi(args[1])
			b = append(b, make([]byte, n-len(b))...)
		}
		return within(func() string {
			n, err := unix.Write(s.fd, b)
			return outcome(err, fmt.Sprint(n))
		})
	case "read": // SIZE
		n, _ := strconv.Atoi(args[0])
		return within(func() string { return s.read(n) })
	case "poll":
		p := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN | unix.POLLOUT}}
		_, err := unix.Poll(p, 0)
		return outcome(err, fmt.Sprintf("in %t out %t", p[0].Revents&unix.POLLIN != 0, p[0].Revents&unix.POLLOUT != 0))
	case "ioctl": // NUMBER HEX: the struct begins with HEX
		return s.ioctl(t, args[0], strings.Join(args[1:], ""))
	case "term":
		_ = unix.Kill(s.now.pid, unix.SIGTERM)
	case "ended":
		s.now.ended(t)
	default:
		t.Fatalf("no such step: %s", step)
	}
	return ""
}

// masked is what differs between libraries of TPMs.
var masked = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`minimum size  : \d+`), "minimum size  : N"},
	{regexp.MustCompile(`(?s)^\{.*\}\n$`), "{…}\n"},
	{regexp.MustCompile(`/dev/vtpm\d+`), "DEVICE"},
}

// ctl runs swtpm_ioctl and returns its output, and its exit code if that is not 0.
func (s *stage) ctl(args []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "swtpm_ioctl", append(args, s.now.path)...).CombinedOutput()
	text := string(out)
	for _, m := range masked {
		text = m.re.ReplaceAllString(text, m.to)
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		text += fmt.Sprintf("exit code %d\n", e.ExitCode())
	} else if err != nil {
		text += err.Error() + "\n"
	}
	return text
}

func (s *stage) open(t *testing.T) string {
	// A process that has closed the device may not have released it yet.
	var err error
	until(t, "the device", func() bool {
		s.fd, err = unix.Open(s.now.path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err != unix.EBUSY
	})
	if err == nil {
		err = unix.SetNonblock(s.fd, false)
	}
	if err != nil {
		return outcome(err)
	}
	return ""
}

// read returns how much came of n bytes, and the header of a response.
func (s *stage) read(n int) string {
	b := make([]byte, n)
	got, err := unix.Read(s.fd, b)
	if err != nil {
		return outcome(err)
	}
	b = b[:got]
	if len(b) >= 10 && (bytes.HasPrefix(b, []byte("\x80\x01")) || bytes.HasPrefix(b, []byte("\x00\xc4"))) {
		return fmt.Sprintf("%d %x %x %x\n", len(b), b[:2], b[2:6], b[6:10])
	}
	if len(b) > 200 && len(b) < n { // of a blob or a key, whose size is the library's affair
		return "some\n"
	}
	return fmt.Sprintf("%d\n", len(b))
}

// ioctl sends a struct in the byte order of the machine, whose words are given in
// hex, and returns what has changed of its first four, and of a blob whether it is
// longer than what came of it.
func (s *stage) ioctl(t *testing.T, number, words string) string {
	nr, err := strconv.ParseUint(number, 0, 32)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, max(16, nr>>16&0x3fff))
	var was [4]uint32
	for i, w := range regexp.MustCompile(`[0-9a-f]{8}`).FindAllString(words, -1) {
		v, _ := hex.DecodeString(w)
		was[i] = binary.BigEndian.Uint32(v)
		binary.NativeEndian.PutUint32(buf[4*i:], was[i])
	}
	return within(func() string {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), uintptr(nr), uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
			return outcome(errno)
		}
		var now [4]uint32
		for i := range now {
			now[i] = binary.NativeEndian.Uint32(buf[4*i:])
		}
		if nr == 0xCC10500B && now[0] == 0 { // result, flags, total, length
			rest := now[2] - now[3]
			return fmt.Sprintf("%#x flags %#x, whole %t, full %t\n", now[0], now[1], rest == 0, now[3] == 3072)
		}
		return fmt.Sprintf("%#x\n", now[0])
	})
}

// outcome is an error by its name, or else the text as a line.
func outcome(err error, text ...string) string {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return unix.ErrnoName(errno) + "\n"
	}
	return strings.Join(append(text, "\n"), "")
}

// within returns what f does, or that it does not come back.
func within(f func() string) string {
	done := make(chan string, 1)
	go func() { done <- f() }()
	select {
	case s := <-done:
		return s
	case <-time.After(patience):
		return "hangs\n"
	}
}
