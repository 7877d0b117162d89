package fleet

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// maxState limits the size of a state file, in bytes.
const maxState = 1 << 20

// readState reads the history and the encryption of the permanent state, without its key
// and without the lock. A state in one file or block device is left out: it may be written
// meanwhile.
func readState(t *TPM, cfg *config.Config) {
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

// readMetrics reads the metrics file of a TPM, if it has one, and the number of commands
// from it.
func readMetrics(t *TPM, file string) {
	if file == "" {
		return
	}
	b, err := safefile.ReadInput(file, maxProcFile)
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
