package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/program"
)

// adminProgram runs the verbs about a whole host. They need libraries that would cost each
// TPM memory, such as D-Bus and os/exec.
const adminProgram = "swtpm-admin"

// hostVerb is a verb that adminProgram runs; its own help lists its options. The flags
// here are those that shells complete.
type hostVerb struct {
	name     string
	synopsis string // follows "Usage: swtpm ", as in adminProgram
	summary  string
	operand  string // the kind of its operands; "" without operands
	flags    []string
}

// hostVerbs are the verbs of adminProgram.
var hostVerbs = []hostVerb{
	{"anchor", "anchor [--tpm DEVICE] update|check|remove", "Tie the rollback marks of this host to a counter in its own TPM.", "update|check|remove",
		[]string{"--tpm", "--owner-auth-file", "--file", "--marks"}},
	{"list", "list [--json] [--watch] [--no-doctor] [PATTERN...]", "List all TPMs of this host, whichever program started them.", "PATTERN",
		[]string{"--json", "--watch", "--no-doctor"}},
	{"upgrade", "upgrade [--dry-run] [--jobs N] --all|PATTERN...|--trigger", "Restart TPMs that run a replaced libtpms, libcrypto or swtpm, under their guests.", "PATTERN",
		[]string{"--all", "--dry-run", "--jobs", "--json", "--no-selftest", "--trigger"}},
	{"metrics", "metrics [--serve]", "Print the metrics of all TPMs of this host as OpenMetrics text.", "",
		[]string{"--serve"}},
	{"boots", "boots [list|show|diff|explain|export] [OPTION]... PROFILE|--tpmstate SUBOPTIONS [BOOT]...",
		"Show what the boots of a TPM measured, what changed, and why the guest asks for its recovery key.", "PROFILE",
		[]string{"--tpmstate", "--instance", "--vars", "--firmware", "--images", "--cmdline", "--guest-log", "--pcrlock", "--format", "--json"}},
	{"selftest", "selftest [--json]", "Check the installed libtpms and libcrypto with known answers. Exit with 1 if an answer is wrong.", "",
		[]string{"--json"}},
}

// findHostVerb returns the verb with this name, nil if there is none.
func findHostVerb(name string) *hostVerb {
	for i := range hostVerbs {
		if hostVerbs[i].name == name {
			return &hostVerbs[i]
		}
	}
	return nil
}

// exec replaces the process with adminProgram. It returns only if that fails.
func (v *hostVerb) exec(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find %s: %w", adminProgram, err)
	}
	bin := filepath.Dir(self)
	for _, dir := range []string{bin, filepath.Join(bin, "../lib/swtpm")} {
		path := filepath.Join(dir, adminProgram)
		err = syscall.Exec(path, append([]string{adminProgram, v.name}, args...), os.Environ())
		switch {
		case errors.Is(err, os.ErrPermission):
			return &program.ExitError{Code: 1, Err: fmt.Errorf("%s: run %s: %w; if the AppArmor profile of swtpm forbids it, load the profile of this package, or run \"%s %s\"", v.name, path, err, path, v.name)}
		case !errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%s: run %s: %w", v.name, path, err)
		}
	}
	return &program.ExitError{Code: 1, Err: fmt.Errorf("%s: %s is missing in %s and in ../lib/swtpm next to it; install the whole package", v.name, adminProgram, bin)}
}

// command describes the verb for shell completion.
func (v *hostVerb) command() completion.Command {
	c := completion.Command{Name: v.name, Help: v.summary}
	for _, f := range v.flags {
		c.Options = append(c.Options, completion.Option{Names: []string{f}})
	}
	if v.operand != "" {
		c.Operand = completion.ValueOf(v.operand)
	}
	return c
}
