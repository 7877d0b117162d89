package doctor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/store"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestSettings checks that no remedy for a profile names an option of the command line, nor
// the other way round, and that all settings in the texts have a name.
func TestSettings(t *testing.T) {
	tables := [][]entry{ofState(), ofOutput(), ofKeys(), ofInput(), ofPaths(), unixSockets, tcpSockets}
	for _, table := range tables {
		for _, e := range table {
			for s, foreign := range map[Remedies]string{CommandLine: "[tpmstate]", Profile: "--tpmstate"} {
				text := s.find(table, e.err)
				if text == "" || strings.ContainsAny(text, "{}") || strings.Contains(text, foreign) {
					t.Errorf("the remedy for %v is %q", e.err, text)
				}
			}
		}
	}
}

// fileKey returns a key of this number of bytes, nil for 0.
func fileKey(t *testing.T, size int) *seal.Key {
	t.Helper()
	if size == 0 {
		return nil
	}
	k, err := seal.NewKey(make([]byte, size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// openError returns the error for a state that is sealed with a key and opened with another one,
// of this number of bytes.
func openError(t *testing.T, with *seal.Key, size int) error {
	t.Helper()
	blob, err := seal.Seal([]byte("state"), with)
	if err != nil {
		t.Fatal(err)
	}
	_, err = seal.Open(blob, fileKey(t, size))
	return err
}

// TestState checks what a user of a profile and of a command line are advised.
func TestState(t *testing.T) {
	for _, tt := range []struct {
		err           error
		line, profile string
	}{
		{seal.ErrNoKey, "name the key that the state was written with, --key", "name the key that the state was written with, [key]"},
		{openError(t, nil, 32), "leave out --key, or encrypt the state with swtpm state rekey", "leave out [key], or encrypt the state with swtpm state rekey"},
		{openError(t, nil, 16), "leave out --key, or encrypt the state with swtpm state rekey", "leave out [key], or encrypt the state with swtpm state rekey"},
		{openError(t, fileKey(t, 16), 0), "give the key that the state was written with, --key", "give the key that the state was written with, [key]"},
		{openError(t, fileKey(t, 16), 32), "correct the mode of --key", "correct the mode of [key]"},
		{fmt.Errorf("open: %w", syscall.ENOENT), "create the directory, or correct --tpmstate", "create the directory, or correct [tpmstate]"},
		{&emul.TooNewError{Err: errors.New("e"), Needs: "libtpms 0.10"}, "use libtpms 0.10", "use libtpms 0.10"},
		{fmt.Errorf("%w: %w", store.ErrQuota, syscall.ENOSPC), storeQuota, storeQuota},
		{fmt.Errorf("%w: too many connections of user 107, at most 4096 are allowed", store.ErrUnreachable), storeBusy, storeBusy},
		{fmt.Errorf("%w: %w", emul.ErrStart, tpm.Fail), badState, badState},
		{fmt.Errorf("%w: %w: rename: %w", emul.ErrStart, tpm.Fail, syscall.EXDEV), "", ""},
		{fmt.Errorf("%w: %w: rename: %w", emul.ErrStart, tpm.Fail, syscall.ENOSPC), "free space on that file system", "free space on that file system"},
		{fmt.Errorf("check: %w", safefile.ErrType), "restore the regular file from a backup, or correct --tpmstate", "restore the regular file from a backup, or correct [tpmstate]"},
		{errors.New("unknown"), "", ""},
	} {
		if got := CommandLine.State(tt.err); got != tt.line {
			t.Errorf("CommandLine.State(%v) = %q, want %q", tt.err, got, tt.line)
		}
		if got := Profile.State(tt.err); got != tt.profile {
			t.Errorf("Profile.State(%v) = %q, want %q", tt.err, got, tt.profile)
		}
	}
}

// TestClusterAdvice checks what the doctor advises about a broker that does not serve a client.
func TestClusterAdvice(t *testing.T) {
	for text, want := range map[string]string{
		"too many connections of process 5, at most 16 are allowed": storeBusy,
		"no member is connected":                                    "run: swtpm-store --check",
	} {
		if got := clusterAdvice(fmt.Errorf("%w: %s", store.ErrUnreachable, text)); got != want {
			t.Errorf("clusterAdvice of %q = %q, want %q", text, got, want)
		}
	}
}

// TestSocket checks the remedy for each error of a socket.
func TestSocket(t *testing.T) {
	for _, tt := range []struct {
		kind config.EndpointKind
		err  error
		want string
	}{
		{config.Unix, syscall.ENOENT, "create the directory of the socket, or correct the path"},
		{config.TCP, syscall.EADDRINUSE, "stop the process that listens there, or choose another port"},
		{config.TCP, syscall.ENOENT, ""},
		{config.Systemd, syscall.ENOENT, ""},
	} {
		if got := Socket(config.Endpoint{Kind: tt.kind}, tt.err); got != tt.want {
			t.Errorf("Socket(%v, %v) = %q, want %q", tt.kind, tt.err, got, tt.want)
		}
	}
}

// TestAppend checks that a remedy is appended to an error, and that nil stays nil.
func TestAppend(t *testing.T) {
	cause := errors.New("cause")
	if err := AppendRemedy(cause, "do this"); err.Error() != "cause; do this" || !errors.Is(err, cause) {
		t.Errorf("Append = %v", err)
	}
	if err := AppendRemedy(cause, ""); err != cause {
		t.Errorf("Append without a remedy = %v", err)
	}
	if err := AppendRemedy(nil, "do this"); err != nil {
		t.Errorf("Append to nil = %v", err)
	}
}
