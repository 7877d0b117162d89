package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// maxState limits the size of a state file, in bytes.
const maxState = 1 << 20

// readState reads the record and the encryption of the permanent state, without its key and
// without the lock. It ignores a state in one file or block device, because that may be written at
// the same time.
func readState(t *TPM, cfg *config.Config) {
	t.Location = cfg.State.Location.String()
	dir, ok := cfg.State.Location.Dir()
	if !ok || cfg.Sandbox.Chroot != "" {
		return
	}
	path := filepath.Join(dir, cfg.TPM.FilePrefix()+nv.Permanent)
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeType != 0 {
		return
	}
	if at := st.ModTime().UTC(); t.Stored == nil || at.After(*t.Stored) {
		t.Stored = &at
	}
	blob, err := safefile.ReadInput(path, maxState)
	if err != nil {
		return
	}
	info, err := seal.DescribeFile(blob)
	if err != nil {
		return
	}
	t.Encryption = "none"
	if info.Bits > 0 {
		t.Encryption = "aes-" + strconv.Itoa(info.Bits) + "-cbc"
	}
	if r, err := generation.Decode(info.Record); err == nil {
		g := r.Generation
		t.Generation, t.Identity = &g, r.Identity.String()
	}
}

// errOwner means that a file belongs to an unexpected user.
var errOwner = errors.New("the file belongs to another user than the process")

// readOwned reads a regular file that belongs to the user or to root.
func readOwned(path string, uid int) ([]byte, error) {
	f, info, err := safefile.OpenInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || !ok || st.Uid != 0 && int(st.Uid) != uid || info.Size() > maxProcFile {
		return nil, fmt.Errorf("%s: %w", path, errOwner)
	}
	return io.ReadAll(io.LimitReader(f, maxProcFile))
}

// readMetrics reads the metrics file of a TPM, if it has one, and the number of commands
// from it.
func readMetrics(t *TPM, file string) {
	if file == "" {
		return
	}
	b, err := readOwned(file, t.UID)
	if err != nil {
		return
	}
	t.text = b
	var commands uint64
	found := false
	for line := range bytes.Lines(b) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), "} ")
		if !ok || !strings.HasPrefix(name, "swtpm_commands_total{") {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		commands, found = commands+n, found || err == nil
	}
	if found && t.Commands == nil {
		t.Commands = &commands
	}
}
