package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
)

// setupProgram makes clones, because it contains the local CA, which the emulator must not link.
const setupProgram = "swtpm-setup"

// stateClone translates its command line into one of setupProgram and executes that program.
func stateClone(f *pflag.FlagSet) action {
	renew := f.Bool("new-identity", false, "give the copy new endorsement keys and certificates; owner hierarchy and NV memory stay; the default")
	keep := f.Bool("keep-identity", false, "copy everything, to move the TPM")
	reset := f.Bool("reset", false, "create a new TPM with the algorithms, keys and certificates that SRC has")
	plain := f.Bool("plain", false, "store the copy of an encrypted TPM unencrypted if DST has no key")
	key := f.String("key", "", "use the key that `SUBOPTIONS` name, as for swtpm socket, for SRC instead of the profile's")
	return func(_ context.Context, args []string) error {
		more := []string(nil)
		if n := f.ArgsLenAtDash(); n >= 0 {
			args, more = args[:n], args[n:]
		}
		if len(args) != 2 {
			return misused(f.Name(), errors.New("give SRC and DST; options of swtpm_setup follow after --"))
		}
		for _, name := range args {
			if err := checkOperand(name); err != nil {
				return misused(f.Name(), err)
			}
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
		if *plain {
			how = append(how, "--plain")
		}
		if *key != "" {
			how = append(how, "--clone-key", *key)
		}
		how = append(how, more...)
		if kind := nv.ParseLocation(args[1]).Kind; kind == nv.Directory || kind == nv.File || kind == nv.Cluster {
			how = append([]string{"--tpm-state", args[1]}, how...)
		} else {
			how = append([]string{args[1]}, how...)
		}
		return execProgram("state clone", setupProgram, how)
	}
}

// checkOperand returns an error if name, which is SRC or DST of a clone, is the path of a directory,
// or of a missing file that is not a profile. SRC and DST must be a profile or a URI.
func checkOperand(name string) error {
	if nv.ParseLocation(name).Kind != nv.Unsupported || !strings.Contains(name, "/") || strings.Contains(name, "://") {
		return nil
	}
	fi, err := os.Stat(name)
	if err == nil && fi.IsDir() || errors.Is(err, os.ErrNotExist) && filepath.Ext(name) != ".toml" {
		return fmt.Errorf("%s is not a profile; for a state in that directory write dir://%[1]s", name)
	}
	return nil
}

// storeProgram contains the client of the cluster store, which the emulator must not link.
const storeProgram = "swtpm-store"

// statePull translates its command line into one of storeProgram and executes that program.
func statePull(f *pflag.FlagSet) action {
	f.String("config", "", "read this `FILE` instead of /etc/swtpm/store.toml")
	f.String("endpoint", "", "ask only the member at this `URL`")
	f.String("prefix", "", "use this `PREFIX` of the keys instead of the configuration's")
	f.String("snapshot", "", "read this `FILE`: a snapshot, or the database of a member that does not run")
	f.Uint64("generation", 0, "copy the stored generation `N` of the permanent state")
	f.Bool("force", false, "copy the state even if a host owns it now")
	return func(_ context.Context, args []string) error {
		how := []string{"pull"}
		f.Visit(func(o *pflag.Flag) { how = append(how, "--"+o.Name+"="+o.Value.String()) })
		return execProgram("state pull", storeProgram, append(append(how, "--"), args...))
	}
}

// execProgram replaces the process with another program of the package, which is in the directory of
// this one. It returns only if that fails.
func execProgram(verb, name string, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	err = syscall.Exec(path, append([]string{name}, args...), os.Environ())
	if errors.Is(err, os.ErrNotExist) {
		return &program.ExitError{Code: 1, Err: fmt.Errorf("%s: %s is missing; install swtpm-tools", verb, path)}
	}
	return fmt.Errorf("%s: run %s: %w", verb, path, err)
}
