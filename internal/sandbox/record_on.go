//go:build cgo && record

package sandbox

import (
	"fmt"
	"io"
	"net"
	"strings"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// recorder is the abstract socket of the test that records system calls, see test/record; the
// linker sets it. In this build, the test decides about each call instead of the filter. A
// call that the test has not seen yet waits for the decision.
var recorder string

// recording contains the names of calls that do not wait, because the test has seen them, and
// allows them with any arguments.
type recording []string

// newRecording requests the names before the process loses the right to create a socket. The
// test identifies the process, and takes the descriptor of the notifications itself.
func newRecording() (recording, error) {
	conn, err := net.Dial("unix", recorder)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	defer conn.Close()
	seen, err := io.ReadAll(conn)
	return strings.Fields(string(seen)), err
}

// load puts a filter into force that reports calls to the test. Its descriptor is never
// closed.
func (r recording) load([]unix.SockFilter) error {
	f, err := seccomp.NewFilter(seccomp.ActNotify)
	if err != nil {
		return err
	}
	for _, name := range append(r, "seccomp") { // loads this filter, and is not a call of the TPM
		number, err := seccomp.GetSyscallFromName(name)
		if err != nil {
			continue // the call has no name
		}
		if err := f.AddRule(number, seccomp.ActAllow); err != nil {
			return err
		}
	}
	return f.Load()
}
