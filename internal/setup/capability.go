package setup

import (
	"context"
	"encoding/json"
	"fmt"
	prog "github.com/swtpm-go/swtpm/internal/program"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/algprofile"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Library is libtpms in this process.
type Library struct {
	Engine      emul.Engine
	Version     string
	HasProfiles bool
	Refuses     func(algprofile.Operation) bool // reports whether OpenSSL refuses an operation
}

// capabilities are the capabilities of an emulator.
type capabilities struct {
	versions []tpm.Version
	rsaSizes []string // sizes of RSA keys of a TPM 2.0, from 2048 bits on
	profiles []string // names of the algorithm profiles; nil if unsupported
	builtin  string   // the algorithm profiles, a JSON array; "" if unsupported
	custom   string   // the algorithms of the custom profile
}

// has reports whether the emulator supports version v.
func (c capabilities) has(v tpm.Version) bool { return slices.Contains(c.versions, v) }

// Flags of libtpms for descriptions of itself and of the TPM.
const (
	infoSpec     = 3    // TPMLIB_INFO_TPMSPECIFICATION, TPMLIB_INFO_TPMATTRIBUTES
	infoFeatures = 4    // TPMLIB_INFO_TPMFEATURES
	infoActive   = 0x20 // TPMLIB_INFO_ACTIVE_PROFILE
	infoProfiles = 0x40 // TPMLIB_INFO_AVAILABLE_PROFILES
)

// capabilities returns the capabilities of the library.
func (l Library) capabilities() (capabilities, error) {
	var c capabilities
	l.Engine.Lock()
	defer l.Engine.Unlock()
	for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
		if l.Engine.Choose(v) == nil {
			c.versions = append(c.versions, v)
		}
	}
	if !c.has(tpm.V20) {
		return c, nil
	}
	text, err := l.Engine.Info(infoFeatures | infoProfiles)
	if err != nil {
		return c, err
	}
	var info struct {
		TPMFeatures       struct{ RSAKeySizes []int }
		AvailableProfiles json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return c, fmt.Errorf("parse the description of libtpms: %w", err)
	}
	for _, n := range info.TPMFeatures.RSAKeySizes {
		if n >= 2048 {
			c.rsaSizes = append(c.rsaSizes, fmt.Sprint(n))
		}
	}
	if !l.HasProfiles {
		return c, nil
	}
	var profiles []struct{ Name, Algorithms string }
	if err := json.Unmarshal(info.AvailableProfiles, &profiles); err != nil {
		return c, fmt.Errorf("parse the algorithm profiles of libtpms: %w", err)
	}
	c.profiles, c.builtin = []string{}, string(info.AvailableProfiles)
	for _, p := range profiles {
		c.profiles = append(c.profiles, p.Name)
		if p.Name == "custom" {
			c.custom = p.Algorithms
		}
	}
	return c, nil
}

// orphanWait is how long output waits for the end of the output of an interrupted program, because
// child processes of that program may keep its standard output open.
const orphanWait = time.Second

// output runs another emulator, argv followed by args, and returns its standard output.
func output(ctx context.Context, argv []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], slices.Concat(argv[1:], args)...)
	cmd.WaitDelay = orphanWait
	return cmd.Output()
}

// programProfiles returns the algorithm profiles of another emulator, a JSON array; ""
// if it does not support them.
func programProfiles(ctx context.Context, argv []string) string {
	out, err := output(ctx, argv, "--tpm2", "--print-profiles")
	if err != nil {
		return ""
	}
	var info struct{ AvailableProfiles json.RawMessage }
	if json.Unmarshal(out, &info) != nil {
		return ""
	}
	return string(info.AvailableProfiles)
}

// programCapabilities returns the capabilities of another emulator.
func programCapabilities(ctx context.Context, argv []string, tpm2 bool) (c capabilities, err error) {
	args := []string{"--print-capabilities"}
	if tpm2 {
		args = append(args, "--tpm2")
	}
	out, err := output(ctx, argv, args...)
	if ctx.Err() != nil {
		return c, cli.Complain("Interrupted; nothing was done.")
	}
	if err != nil {
		return c, cli.Complain("Could not get the capabilities of %s: %v", argv[0], err)
	}
	var printed struct {
		Features []string
		Profiles struct{ Names []string }
	}
	if err := json.Unmarshal(out, &printed); err != nil {
		return c, cli.Complain("Could not read the capabilities of %s: %v", argv[0], err)
	}
	for _, f := range printed.Features {
		size, isSize := strings.CutPrefix(f, "rsa-keysize-")
		switch {
		case f == "tpm-1.2":
			c.versions = append(c.versions, tpm.V12)
		case f == "tpm-2.0":
			c.versions = append(c.versions, tpm.V20)
		case f == "cmdarg-profile" && c.profiles == nil:
			c.profiles = append([]string{}, printed.Profiles.Names...)
		case isSize && len(size) == 4 && size >= "2048":
			c.rsaSizes = append(c.rsaSizes, size)
		}
	}
	return c, nil
}

// checkProgram checks that argv, of --tpm, names a program.
func checkProgram(argv []string) error {
	if len(argv) == 0 {
		return cli.Complain("Default TPM 'swtpm' could not be found and was not provided using --tpm")
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return cli.Complain("swtpm at %s is not an executable.", argv[0])
	}
	return nil
}

// printCapabilities prints the line that libvirt and others parse. Words, order and
// blanks are those that the reference prints. It lists only features that are available here.
//
// Source: swtpm 0.11, swtpm_setup --print-capabilities.
func (p *program) printCapabilities() error {
	var features []string
	for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
		if p.caps.has(v) {
			features = append(features, "tpm-"+v.String())
		}
	}
	features = append(features, "cmdarg-keyfile-fd", "cmdarg-pwdfile-fd", "tpm12-not-need-root", "cmdarg-write-ek-cert-files",
		"cmdarg-create-config-files", "cmdarg-reconfigure-pcr-banks")
	for _, s := range p.caps.rsaSizes {
		features = append(features, "tpm2-rsa-keysize-"+s)
	}
	if p.hasProfiles() {
		features = append(features, "cmdarg-profile", "cmdarg-profile-remove-disabled")
	}
	features = append(features, "cmdarg-ek1keyalgo", "cmdarg-ek2keyalgo", "cmdarg-iakkeyalgo", "cmdarg-idevidkeyalgo")
	profiles := "[]"
	if len(p.caps.profiles) > 0 {
		profiles = `[ "` + strings.Join(p.caps.profiles, `", "`) + `" ]`
	}
	_, err := fmt.Fprintf(p.out, "{ \"type\": \"swtpm_setup\", \"features\": [ \"%s\" ], \"profiles\": %s, \"version\": \"%s\" }\n",
		strings.Join(features, `", "`), profiles, prog.ReferenceVersion)
	return err
}
