package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/algprofile"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// awaitProfile is readProfile until ctx ends: as a key, a profile may come through
// a pipe.
func awaitProfile(ctx context.Context, cfg *config.Config) (string, error) {
	if cfg.Profile.Source == config.NoProfile || cfg.Manufacture.Given { // swtpm-setup makes the TPM
		return "", nil
	}
	return program.Await(ctx, func() (string, error) { return readProfile(cfg) })
}

// readProfile returns the algorithm profile of a new TPM, "" if the library is to
// choose one.
func readProfile(cfg *config.Config) (string, error) {
	p := cfg.Profile
	if p.Source == config.NoProfile {
		return "", nil
	}
	if cfg.TPM == tpm.V20 && !libtpms.HasProfiles() {
		return "", fmt.Errorf("--profile needs libtpms 0.10 or newer, and this is libtpms %s; leave it out, and a new TPM works with every libtpms", libtpms.Version())
	}
	source := algprofile.Source{FD: p.FD}
	switch p.Source {
	case config.ProfileText:
		source.JSON = p.Text
	case config.ProfileName:
		source.Name = p.Text
	case config.ProfileFile:
		source.Path = p.Text
	}
	text, err := algprofile.Read(source)
	if err == nil && p.RemoveDisabled != "" && cfg.TPM == tpm.V20 {
		text, err = removeDisabled(text, p.RemoveDisabled)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("--profile: %w", err)
	case text == "" && cfg.TPM == tpm.V20:
		return "", errors.New("--profile: there is nothing in it: Could not set profile for TPM2: ''")
	}
	return text, nil
}

// removeDisabled takes out of a custom profile what OpenSSL refuses on this host,
// or on a FIPS host.
func removeDisabled(profile, how string) (string, error) {
	info, err := libraryInfo()
	if err != nil {
		return "", err
	}
	custom := ""
	for _, p := range info.AvailableProfiles {
		if p.Name == "custom" {
			custom = p.Algorithms
		}
	}
	refuses := libtpms.Refuses
	if how == "fips-host" {
		refuses = nil
	}
	return algprofile.RemoveDisabled(profile, custom, refuses)
}

// info is what libtpms 0.10 and later say of a TPM 2.0, as far as it is needed
// here.
type info struct {
	AvailableProfiles                  []struct{ Name, Algorithms string }
	RuntimeAlgorithms, RuntimeCommands struct{ CanBeDisabled, Implemented string }
}

// infoRuntime asks libtpms for its RuntimeAlgorithms and RuntimeCommands,
// TPMLIB_INFO_RUNTIME_ALGORITHMS and TPMLIB_INFO_RUNTIME_COMMANDS.
const infoRuntime = 0x08 | 0x10

// libraryInfo asks the library, of which TPM 2.0 was chosen.
func libraryInfo() (*info, error) {
	text, err := libtpms.Engine().Info(infoProfiles | infoRuntime)
	if err != nil {
		return nil, err
	}
	var i info
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		return nil, fmt.Errorf("what libtpms says of itself: %w", err)
	}
	return &i, nil
}
