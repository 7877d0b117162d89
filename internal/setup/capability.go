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

// Library is the libtpms that TPMs of this process are made of.
type Library struct {
	Engine      emul.Engine
	Version     string
	HasProfiles bool
	Refuses     func(algprofile.Operation) bool // what this host's OpenSSL does
}

// capabilities are what an emulator can do.
type capabilities struct {
	versions []tpm.Version
	rsaSizes []string // of a TPM 2.0, those of 2048 bits and more
	profiles []string // names; nil without algorithm profiles
	builtin  string   // the profiles, a JSON array; "" without
	custom   string   // the algorithms of the custom profile
}

// has says whether there is a TPM of version v.
func (c capabilities) has(v tpm.Version) bool { return slices.Contains(c.versions, v) }

// What libtpms is asked for: TPMLIB_INFO_TPMFEATURES, TPMLIB_INFO_AVAILABLE_PROFILES,
// TPMLIB_INFO_ACTIVE_PROFILE, and specification with attributes.
const (
	infoFeatures = 4
	infoProfiles = 0x40
	infoActive   = 0x20
	infoSpec     = 3
)

// capabilities asks the library.
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
		return c, fmt.Errorf("what libtpms says of itself: %w", err)
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
		return c, fmt.Errorf("what libtpms says of its profiles: %w", err)
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

// orphanWait is how long a program that was interrupted is waited for because what
// it has started keeps its output open.
const orphanWait = time.Second

// ask returns what another emulator prints; argv is its --tpm, args what is asked.
func ask(ctx context.Context, argv []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], slices.Concat(argv[1:], args)...)
	cmd.WaitDelay = orphanWait
	return cmd.Output()
}

// programProfiles returns the algorithm profiles of another emulator, a JSON array;
// "" if it has none or does not know the question.
func programProfiles(ctx context.Context, argv []string) string {
	out, err := ask(ctx, argv, "--tpm2", "--print-profiles")
	if err != nil {
		return ""
	}
	var info struct{ AvailableProfiles json.RawMessage }
	if json.Unmarshal(out, &info) != nil {
		return ""
	}
	return string(info.AvailableProfiles)
}

// programCapabilities asks another emulator; argv is its --tpm.
func programCapabilities(ctx context.Context, argv []string, tpm2 bool) (c capabilities, err error) {
	args := []string{"--print-capabilities"}
	if tpm2 {
		args = append(args, "--tpm2")
	}
	out, err := ask(ctx, argv, args...)
	if ctx.Err() != nil {
		return c, cli.Complain("Interrupted; nothing was done.")
	}
	if err != nil {
		return c, cli.Complain("Could not get the capabilities of %s: %v", argv[0], err)
	}
	var told struct {
		Features []string
		Profiles struct{ Names []string }
	}
	if err := json.Unmarshal(out, &told); err != nil {
		return c, cli.Complain("Could not read the capabilities of %s: %v", argv[0], err)
	}
	for _, f := range told.Features {
		size, isSize := strings.CutPrefix(f, "rsa-keysize-")
		switch {
		case f == "tpm-1.2":
			c.versions = append(c.versions, tpm.V12)
		case f == "tpm-2.0":
			c.versions = append(c.versions, tpm.V20)
		case f == "cmdarg-profile" && c.profiles == nil:
			c.profiles = append([]string{}, told.Profiles.Names...)
		case isSize && len(size) == 4 && size >= "2048":
			c.rsaSizes = append(c.rsaSizes, size)
		}
	}
	return c, nil
}

// checkProgram makes sure that --tpm names a program.
func checkProgram(argv []string) error {
	if len(argv) == 0 {
		return cli.Complain("Default TPM 'swtpm' could not be found and was not provided using --tpm")
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return cli.Complain("swtpm at %s is not an executable.", argv[0])
	}
	return nil
}

// printCapabilities writes the line that libvirt and others read: the words, the
// order and the blanks of the reference, and only what works here.
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
