package compare_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// exchange is the bytes that a client sends on a new data connection, in pieces that a slash
// separates, and the number of bytes of response that it waits for; 0 waits until no more arrive.
type exchange struct {
	name, in12, in20 string
	want             int
}

const (
	ticks12   = "00c1 00000016 00000065 00000005 00000004 00000103" // TPM_GetCapability of a property
	getCap20  = "8001 00000016 0000017a 00000006 00000100 00000001" // TPM2_GetCapability of a property
	prefixOf0 = "00000008 00 00000016 "
)

var exchanges = []exchange{
	{"a command", ticks12, getCap20, 10},
	{"in two pieces, 5 bytes first", "00c1 000000/16 00000065 00000005 00000004 00000103", "8001 000000/16 0000017a 00000006 00000100 00000001", 10},
	{"a byte too few", "00c1 00000016 00000065 00000005 00000004 000001", "8001 00000016 0000017a 00000006 00000100 000000", 10},
	{"one byte later than the rest", "00c1 00000016 00000065 00000005 00000004 000001/03", "8001 00000016 0000017a 00000006 00000100 000000/01", 10},
	{"two commands in one write", ticks12 + ticks12, getCap20 + getCap20, 0},
	{"a byte too many", ticks12 + "00", getCap20 + "00", 0},
	{"size 0", "00c1 00000000 00000065 00000005 00000004 00000103", "8001 00000000 0000017a 00000006 00000100 00000001", 0},
	{"size 9", "00c1 00000009 00000065 00000005 00000004 00000103", "8001 00000009 0000017a 00000006 00000100 00000001", 0},
	{"size of 2 GiB", "00c1 7fffffff 00000065 00000005 00000004 00000103", "8001 7fffffff 0000017a 00000006 00000100 00000001", 0},
	{"size of all ones", "00c1 ffffffff 00000065 00000005 00000004 00000103", "8001 ffffffff 0000017a 00000006 00000100 00000001", 0},
	{"5000 bytes", "00c1 00001388 00000065 00*4990", "8001 00001388 0000017a 00*4990", 0},
	{"4096 bytes", "00c1 00001000 00000065 00*4086", "8001 00001000 0000017a 00*4086", 0},
	{"a wrong tag", "00c9 0000000a 00000065", "8009 0000000a 0000017a", 10},
	{"tag 0", "0000 0000000a 00000065", "0000 0000000a 0000017a", 10},
	{"the other version's tag", getCap20, ticks12, 10},
	{"a header alone", "00c1 0000000a 00000065", "8001 0000000a 0000017a", 10},
	{"an unknown code", "00c1 0000000a 7fffffff", "8001 0000000a 7fffffff", 10},
	{"SetLocality, not allowed", "00c1 0000000b 20001000 01", "8001 0000000b 20001000 01", 10},
	{"a prefix", prefixOf0 + ticks12, prefixOf0 + getCap20, 0},
	{"a prefix with another size", "00000008 00 00000000" + ticks12, "00000008 00 00000000" + getCap20, 0},
	{"a prefix with locality 3", "00000008 03 00000016" + ticks12, "00000008 03 00000016" + getCap20, 0},
	{"a prefix with locality 9", "00000008 09 00000016" + ticks12, "00000008 09 00000016" + getCap20, 0},
	{"a prefix with locality 0", prefixOf0 + ticks12, prefixOf0 + getCap20, 0},
	{"a prefix with number 7", "00000007 00 00000016" + ticks12, "00000007 00 00000016" + getCap20, 0},
	{"a prefix and one byte", "00000008 00 00000001 00", "00000008 00 00000001 00", 0},
	{"a prefix and a header", "00000008 00 0000000a 00c1 0000000a 00000065", "00000008 00 0000000a 8001 0000000a 0000017a", 0},
	{"a command after all that", ticks12, getCap20, 10},
}

// TestCommands checks that both answer commands, and bytes that are no command, alike in every
// state.
func TestCommands(t *testing.T) {
	referenceVersion(t)
	for _, v := range versions {
		for _, state := range states {
			t.Run(v.name+"/"+state, func(t *testing.T) {
				t.Parallel()
				compare(t, v.name, nil, func(p *pair) {
					if !p.enter(t, state, v.startup) {
						return
					}
					for _, x := range exchanges {
						in := x.in12
						if v.name == "2.0" {
							in = x.in20
						}
						p.exchange(t, state, x, in)
					}
				})
			})
		}
	}
}

// exchange compares the responses. It tries again, and waits longer, if they differ, because a part of one may
// come late on a busy machine.
func (p *pair) exchange(t *testing.T, state string, x exchange, in string) {
	t.Helper()
	for times := time.Duration(1); ; times *= 4 {
		for _, i := range p.one {
			i.data.connect(t, i)
		}
		theirs, ours := p.commands(times, x.want, in)
		for _, i := range p.one {
			i.data.close()
		}
		if times == busy || theirs == ours || p.listed(state, x.name, theirs, ours) >= 0 {
			p.check(state, x.name, theirs, ours)
			return
		}
	}
}

// commands sends the pieces of in to both and returns the responses.
func (p *pair) commands(times time.Duration, want int, in string) (theirs, ours string) {
	var pieces [][]byte
	for piece := range strings.SplitSeq(in, "/") {
		pieces = append(pieces, harness.Unhex(piece))
	}
	return p.both(func(i *instance, _ []byte) string { return i.data.commandFor(times, want, pieces...) })
}

// TestEnds checks that connections and processes of both end at the same events.
func TestEnds(t *testing.T) {
	referenceVersion(t)
	for _, c := range []struct {
		name string
		args []string
		ends bool // the process ends after its data client
	}{
		{"none", nil, false},
		{"-t", []string{"-t"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t, "2.0", c.args...)
			for _, i := range p.one {
				i.data.connect(t, i)
				if got := i.data.command(10, harness.Unhex(getCap20)); got != "80010000000a00000101" {
					t.Errorf("%s: a command while off = %s, want 80010000000a00000101", i.Cmd.Path, got)
				}
				i.data.close()
				if c.ends {
					if code := i.Wait(t); code != 0 {
						t.Errorf("%s: exit code %d, want 0", i.Cmd.Path, code)
					}
					continue
				}
				i.data.connect(t, i)
				if got := i.data.command(10, harness.Unhex(getCap20)); got != "80010000000a00000101" {
					t.Errorf("%s: a command of the next client = %s, want 80010000000a00000101", i.Cmd.Path, got)
				}
			}
		})
	}
}

// TestDataFD checks the replies to SET_DATAFD with good and bad descriptors, and that the new
// data channel works.
func TestDataFD(t *testing.T) {
	referenceVersion(t)
	steps := []struct {
		name  string
		in    string
		fds   int
		close bool // the connection made by an earlier step, first
	}{
		{"ordinary request with a descriptor", "0000000f", 1, false},
		{"no descriptor", "00000010", 0, false},
		{"no descriptor, a body", "00000010 00", 0, false},
		{"a descriptor and a body", "00000010 00", 1, false},
		{"a descriptor", "00000010", 1, false},
		{"a second one", "00000010", 1, false},
		{"a second without descriptor", "00000010", 0, false},
		{"the next one", "00000010", 1, true},
		{"two descriptors", "00000010", 2, true},
	}
	compare(t, "2.0", []string{"-nodata"}, func(p *pair) {
		for _, step := range steps {
			got := [2]string{}
			for n, i := range p.one {
				if step.close {
					i.data.close()
					time.Sleep(time.Second) // the reference has one thread
				}
				got[n] = p.sendFDs(t, i, n == 0, harness.Unhex(step.in), step.fds)
			}
			if p.check("datafd", step.name, got[0], got[1]); p.left {
				return
			}
		}
	})
}

// sendFDs sends a request with descriptors, one end of a socket pair each. If
// the first of them is accepted, its other end becomes the data connection.
func (p *pair) sendFDs(t *testing.T, i *instance, theirs bool, b []byte, fds int) string {
	t.Helper()
	var rights []int
	var mine *os.File
	for n := range fds {
		s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		rights = append(rights, s[0])
		f := os.NewFile(uintptr(s[1]), "data")
		defer f.Close()
		if n == 0 {
			mine = f
		}
	}
	var oob []byte
	if fds > 0 {
		oob = unix.UnixRights(rights...)
	}
	if _, _, err := i.ctrl.Conn.(*net.UnixConn).WriteMsgUnix(b, oob, nil); err != nil {
		t.Fatal(err)
	}
	for _, fd := range rights {
		_ = unix.Close(fd)
	}
	got := i.ctrl.request(p.capability(theirs), harness.EventTimeout)
	if mine == nil || got != "00000000" {
		return got
	}
	c, err := net.FileConn(mine)
	if err != nil {
		t.Fatal(err)
	}
	i.data = &peer{Conn: c}
	return got + " " + i.data.command(10, harness.Unhex(getCap20))
}
