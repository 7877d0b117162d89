// Swtpm-setup manufactures a TPM for a virtual machine. It has the command line, messages
// and exit codes of swtpm_setup. The engine runs in this process.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/setup"
)

func main() { program.Main("swtpm_setup", run) }

func run(ctx context.Context, args []string) error {
	if fd, err := daemon.OpenDiscard(); err == nil {
		libtpms.Debug(fd, 0, "") // discards libtpms's messages, because our errors contain the same information
	}
	err := setup.Run(ctx, args, setup.Environment{
		Name:     os.Args[0],
		Stdout:   program.PrintableWriter(os.Stdout),
		Stderr:   program.PrintableWriter(os.Stderr),
		Terminal: setup.Terminal(os.Stderr),
		Bindir:   bindir(),
		Library: setup.Library{
			Engine:      libtpms.Engine(),
			Version:     libtpms.Version(),
			HasProfiles: libtpms.HasProfiles(),
			Refuses:     libtpms.Refuses,
		},
	})
	if err != nil {
		return &program.ExitError{Code: 1, Err: err, Silent: true}
	}
	return nil
}

// bindir returns the directory of this and the other programs.
func bindir() string {
	path, err := os.Executable()
	if err != nil {
		return "/usr/bin"
	}
	return filepath.Dir(path)
}
