package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// infoFeatures asks libtpms for its TPMFeatures: TPMLIB_INFO_TPMFEATURES.
const infoFeatures = 4

// printCapabilities writes the line that libvirt and others read, with the words, the
// order and the blanks of the reference. It lists only features that work here.
//
// Source: swtpm 0.11, src/swtpm/capabilities.c.
func printCapabilities(w io.Writer, v tpm.Version, iface config.InterfaceKind) error {
	features := supported()
	if iface != config.CUSE {
		features = append(features, "tpm-send-command-header")
	}
	features = append(features,
		"flags-opt-startup", "flags-opt-disable-auto-shutdown",
		"ctrl-opt-terminate", "cmdarg-seccomp", "cmdarg-key-fd", "cmdarg-pwd-fd", "cmdarg-print-states", "cmdarg-chroot", "cmdarg-migration",
		"nvram-backend-dir", "nvram-backend-file")
	profiles := ""
	sizes, err := rsaKeySizes(v)
	if err != nil {
		return err
	}
	for _, s := range sizes {
		features = append(features, "rsa-keysize-"+s)
	}
	if v == tpm.V20 && libtpms.HasProfiles() {
		features = append(features, "cmdarg-profile", "cmdarg-print-profiles", "profile-opt-remove-disabled")
		if profiles, err = profileCapabilities(); err != nil {
			return err
		}
	}
	// libvirt asks for the active profile if this feature exists, and fails without one.
	if libtpms.HasProfiles() {
		features = append(features, "cmdarg-print-info")
	}
	features = append(features, "tpmstate-opt-lock", "tpmstate-dir-backend-opt-backup",
		"tpmstate-dir-backend-opt-fsync", "cmdarg-pcap", "systemd-notify")
	_, err = fmt.Fprintf(w, "{ \"type\": \"swtpm\", \"features\": [ \"%s\" ], \"profiles\": { %s}, \"version\": \"%s\" }\n",
		strings.Join(features, `", "`), profiles, program.ReferenceVersion)
	return err
}

// profileCapabilities returns members of a JSON object: the names of the algorithm
// profiles, and the algorithms and commands that a custom profile may leave out:
//
//	"names": [ "default-v1", … ], "algorithms": { "canbedisabled": "…", "implemented": "…" }, "commands": { … }
func profileCapabilities() (string, error) {
	info, err := libraryInfo()
	if err != nil {
		return "", err
	}
	var names []string
	for _, p := range info.AvailableProfiles {
		names = append(names, strconv.Quote(p.Name))
	}
	a, c := info.RuntimeAlgorithms, info.RuntimeCommands
	return fmt.Sprintf(`"names": [ %s ], "algorithms": { "canbedisabled": "%s", "implemented": "%s" }, `+
		`"commands": { "canbedisabled": "%s", "implemented": "%s" } `,
		strings.Join(names, ", "), a.CanBeDisabled, a.Implemented, c.CanBeDisabled, c.Implemented), nil
}

// supported returns the features for the TPM versions that the loaded libtpms has.
func supported() (features []string) {
	e := libtpms.Engine()
	for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
		if e.Choose(v) == nil {
			features = append(features, "tpm-"+v.String())
		}
	}
	return features
}

// rsaKeySizes returns the sizes in bits of the RSA keys that the loaded libtpms
// supports for version v. Only a TPM 2.0 reports them:
// {"TPMFeatures":{"RSAKeySizes":[1024,2048,3072],…}}.
func rsaKeySizes(v tpm.Version) ([]string, error) {
	e := libtpms.Engine()
	if err := e.Choose(v); err != nil {
		return nil, fmt.Errorf("this libtpms has no TPM %s: %w", v, err)
	}
	text, err := e.Info(infoFeatures)
	if err != nil {
		return nil, err
	}
	_, list, ok := strings.Cut(text, `"RSAKeySizes":[`)
	if !ok {
		return nil, nil
	}
	list, _, _ = strings.Cut(list, "]")
	return strings.Split(list, ","), nil
}
