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

// recorder is the abstract socket of the test that records which system calls are
// made behind the filter; the linker sets it. This build is for that test alone,
// see test/record: the test decides about each call, instead of the filter,
// and a call that it has not seen yet waits until then.
var recorder string

// recording is the names of the calls that need not wait: the test has seen them, and
// they are allowed with any arguments.
type recording []string

// newRecording asks for them, as long as a socket can be made. The test knows who
// asks, and takes the descriptor that tells of the calls by itself.
func newRecording() (recording, error) {
	conn, err := net.Dial("unix", recorder)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	defer conn.Close()
	seen, err := io.ReadAll(conn)
	return strings.Fields(string(seen)), err
}

// load puts a filter into force that reports to the test what the policy's filter
// would judge. Its descriptor is never closed.
func (r recording) load([]unix.SockFilter) error {
	f, err := seccomp.NewFilter(seccomp.ActNotify)
	if err != nil {
		return err
	}
	for _, name := range append(r, "seccomp") { // this filter, whose making is none of the TPM's calls
		number, err := seccomp.GetSyscallFromName(name)
		if err != nil {
			continue // a number without a name
		}
		if err := f.AddRule(number, seccomp.ActAllow); err != nil {
			return err
		}
	}
	return f.Load()
}
