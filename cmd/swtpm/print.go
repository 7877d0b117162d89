package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// infoProfiles asks libtpms for the algorithm profiles it has,
// TPMLIB_INFO_AVAILABLE_PROFILES of libtpms 0.10.
const infoProfiles = 0x40

// printStates writes which state there is, without a newline:
//
//	{ "type": "swtpm", "states": [] }
//	{ "type": "swtpm", "states": [ {"name": "permall", "size": 1185} ] }
//
// The sizes are those of the items as they are stored, in bytes. Nothing is
// locked, decoded or made; a place that does not exist holds no state.
//
// Source: swtpm 0.10, --print-states.
func printStates(w io.Writer, cfg *config.Config, log *daemon.Log) error {
	var items []string
	s, err := openState(cfg, nil, log, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		defer s.Close()
		for _, b := range tpm.Blobs {
			size, err := s.Stat(b.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			items = append(items, fmt.Sprintf(`{"name": "%s", "size": %d}`, b.Name(), size))
		}
	}
	list := ""
	if len(items) > 0 {
		list = " " + strings.Join(items, ", ") + " "
	}
	_, err = fmt.Fprintf(w, `{ "type": "swtpm", "states": [%s] }`, list)
	return err
}

// printProfiles writes what libtpms says of its algorithm profiles, without a
// newline: {} of a TPM 1.2 and of a libtpms before 0.10.
func printProfiles(w io.Writer, e emul.Engine) error {
	text, err := e.Info(infoProfiles)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, text)
	return err
}

// printInfo writes what libtpms says of the TPM, as one line. If there is a place
// for the state the TPM is powered on for it, as only then it has a profile: that
// takes the lock, and makes a TPM if there is none.
func printInfo(w io.Writer, cfg *config.Config, t *emul.TPM) error {
	if cfg.State.Location.Kind != nv.None || cfg.Flags.NotNeedInit {
		if err := t.Init(false); err != nil {
			return silent(err) // Init has told why
		}
	}
	text, err := t.Info(uint64(cfg.PrintInfo))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, text)
	return err
}
