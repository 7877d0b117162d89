package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
)

// setupProgram makes clones: it has the local CA, which the emulator must not link.
const setupProgram = "swtpm-setup"

// stateClone translates its command line into one of setupProgram, which it executes.
func stateClone(f *pflag.FlagSet) action {
	renew := f.Bool("new-identity", false, "give the copy new endorsement keys and certificates; owner hierarchy and NV memory stay; the default")
	keep := f.Bool("keep-identity", false, "copy everything, to move the TPM")
	reset := f.Bool("reset", false, "create a new TPM with the algorithms, keys and certificates that SRC has")
	key := f.String("key", "", "use the key that `SUBOPTIONS` name, as for swtpm socket, for SRC instead of the profile's")
	return func(_ context.Context, args []string) error {
		more := []string(nil)
		if n := f.ArgsLenAtDash(); n >= 0 {
			args, more = args[:n], args[n:]
		}
		if len(args) != 2 {
			return misused(f.Name(), errors.New("missing SRC and DST; options of swtpm_setup follow after --"))
		}
		how := []string{"--clone", args[0]}
		for _, o := range []struct {
			given bool
			name  string
		}{{*renew, "--new-identity"}, {*keep, "--keep-identity"}, {*reset, "--reset"}} {
			if o.given {
				how = append(how, o.name)
			}
		}
		if len(how) > 3 {
			return misused(f.Name(), errors.New("give one of --new-identity, --keep-identity and --reset"))
		}
		if *key != "" {
			how = append(how, "--clone-key", *key)
		}
		how = append(how, more...)
		if kind := nv.ParseLocation(args[1]).Kind; kind == nv.Directory || kind == nv.File {
			how = append([]string{"--tpm-state", args[1]}, how...)
		} else {
			how = append([]string{args[1]}, how...)
		}
		return execSetup(how)
	}
}

// execSetup replaces the process with setupProgram, which is in the directory of this
// program. It returns only if that fails.
func execSetup(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find %s: %w", setupProgram, err)
	}
	path := filepath.Join(filepath.Dir(self), setupProgram)
	err = syscall.Exec(path, append([]string{setupProgram}, args...), os.Environ())
	if errors.Is(err, os.ErrNotExist) {
		return &program.ExitError{Code: 1, Err: fmt.Errorf("state clone: %s is missing; install swtpm-tools", path)}
	}
	return fmt.Errorf("state clone: run %s: %w", path, err)
}
