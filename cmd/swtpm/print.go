package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// printAndEnd serves no TPM: it prints what an option --print-… asks for.
func printAndEnd(ctx context.Context, cfg *config.Config, src source) (err error) {
	e := &emulator{cfg: cfg, source: src}
	defer func() { err = e.end(err) }()
	if err := e.giveUpPrivileges(); err != nil {
		return err
	}
	if err := e.openLog(); err != nil {
		return err
	}
	if cfg.PrintCapabilities {
		return printCapabilities(os.Stdout, cfg.TPM, cfg.Interface.Type)
	}
	if err := e.openChannels(); err != nil { // Compat: C-216: swtpm opens the sockets first
		return err
	}
	switch {
	case cfg.PrintStates:
		return printStates(os.Stdout, cfg, e.log)
	case cfg.PrintProfiles:
		return printProfiles(program.PrintableWriter(os.Stdout), libtpms.Engine())
	}
	e.channels.logPorts(cfg, e.log)
	if err := e.readInputs(ctx); err != nil {
		return unlessEnding(ctx, err)
	}
	if err := e.createTPM(ctx); err != nil {
		return err
	}
	if err := e.confineQuietly(""); err != nil {
		return err
	}
	return printInfo(program.PrintableWriter(os.Stdout), cfg, e.tpm)
}

// infoProfiles asks libtpms for its algorithm profiles:
// TPMLIB_INFO_AVAILABLE_PROFILES of libtpms 0.10.
const infoProfiles = 0x40

// printStates writes which state items exist, without a newline:
//
//	{ "type": "swtpm", "states": [] }
//	{ "type": "swtpm", "states": [ {"name": "permall", "size": 1185} ] }
//
// The sizes of the stored items are in bytes. Nothing is locked, decoded or
// created; a location that does not exist holds no state.
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

// printProfiles writes libtpms's description of its algorithm profiles, without a
// newline: {} for a TPM 1.2 and for a libtpms before 0.10.
func printProfiles(w io.Writer, e emul.Engine) error {
	text, err := e.Info(infoProfiles)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, text)
	return err
}

// printInfo writes libtpms's description of the TPM, as one line. A TPM with a location
// for its state is powered on first, because only then it has an algorithm profile. That acquires the
// storage lock, and creates a TPM if none exists.
func printInfo(w io.Writer, cfg *config.Config, t *emul.TPM) error {
	if cfg.State.Location.Kind != nv.None || cfg.Flags.NotNeedInit {
		if err := t.Init(false); err != nil {
			return silent(err) // Init has logged the cause
		}
	}
	text, err := t.Info(uint64(cfg.PrintInfo))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, text)
	return err
}
