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

// awaitProfile calls readProfile, but returns early when ctx ends, because an algorithm profile may
// come through a pipe. It returns "" for a TPM that swtpm-setup creates.
func awaitProfile(ctx context.Context, cfg *config.Config) (string, error) {
	if cfg.Profile.Source == config.NoProfile || cfg.Manufacture.Given {
		return "", nil
	}
	return program.Await(ctx, func() (string, error) { return readProfile(cfg) })
}

// readProfile returns the algorithm profile of a new TPM, "" if libtpms is to choose one.
func readProfile(cfg *config.Config) (string, error) {
	p := cfg.Profile
	if p.Source == config.NoProfile {
		return "", nil
	}
	if cfg.TPM == tpm.V20 && !libtpms.HasProfiles() {
		return "", fmt.Errorf("--profile: libtpms 0.10 or newer is needed, this is libtpms %s; leave the option out to create a TPM that works with every libtpms", libtpms.Version())
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
		return "", errors.New("--profile: the profile is empty: Could not set profile for TPM2: ''")
	}
	return text, nil
}

// removeDisabled removes from a custom profile the algorithms that OpenSSL refuses on this
// host, or on any FIPS host if how is "fips-host".
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

// info has the parts that are needed here of libtpms's description of a TPM 2.0, which exists since
// libtpms 0.10.
type info struct {
	AvailableProfiles                  []struct{ Name, Algorithms string }
	RuntimeAlgorithms, RuntimeCommands struct{ CanBeDisabled, Implemented string }
}

// infoRuntime asks libtpms for its RuntimeAlgorithms and RuntimeCommands:
// TPMLIB_INFO_RUNTIME_ALGORITHMS and TPMLIB_INFO_RUNTIME_COMMANDS.
const infoRuntime = 0x08 | 0x10

// libraryInfo returns what libtpms reports after TPM 2.0 was chosen.
func libraryInfo() (*info, error) {
	text, err := libtpms.Engine().Info(infoProfiles | infoRuntime)
	if err != nil {
		return nil, err
	}
	var i info
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		return nil, fmt.Errorf("libtpms: invalid description of itself: %w", err)
	}
	return &i, nil
}
