package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/anchor"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/program"
)

func anchorVerb(f *pflag.FlagSet) action {
	device := f.String("tpm", "/dev/tpmrm0", "the host's TPM is `DEVICE`, or a socket: unix:PATH")
	auth := f.String("owner-auth-file", "", "`FILE` holds the password of the TPM's owner; default: no password")
	path := f.String("file", "", "the anchor is `FILE`; default: anchor.json next to the directory of the marks")
	marks := f.String("marks", "", "the marks are in `DIR`; default: as [rollback] marks in host.toml says")
	return func(_ context.Context, args []string) error {
		if len(args) == 0 {
			return &program.ExitError{Code: 2, Err: errors.New("anchor: missing word: update, check or remove; see swtpm anchor --help")}
		}
		host, err := config.LoadHost(config.HostFile)
		if err != nil {
			return err
		}
		a := &anchor.Anchor{Marks: cmp.Or(*marks, host.Rollback.Marks), File: *path}
		if a.File == "" {
			a.File = filepath.Join(filepath.Dir(a.Marks), "anchor.json")
		}
		if *auth != "" {
			if a.Owner, err = os.ReadFile(*auth); err != nil {
				return err
			}
			a.Owner = []byte(strings.TrimRight(string(a.Owner), "\n"))
		}
		tpm, err := openTPM(*device)
		if err != nil {
			return err
		}
		defer tpm.Close()
		a.TPM = tpm
		return runAnchor(a, args[0])
	}
}

func runAnchor(a *anchor.Anchor, what string) error {
	switch what {
	case "update":
		if err := a.Update(time.Now()); err != nil {
			return explainAnchor(err)
		}
		fmt.Printf("The marks in %s are anchored in the host's TPM.\n", a.Marks)
		return nil
	case "check":
		if err := a.Check(); err != nil {
			return explainAnchor(err)
		}
		fmt.Printf("The marks in %s are not older than the host's TPM knows.\n", a.Marks)
		return nil
	case "remove":
		return a.Remove()
	}
	return &program.ExitError{Code: 2, Err: fmt.Errorf("anchor: unknown word %q: update, check or remove", what)}
}

// explainAnchor adds the remedy to err.
func explainAnchor(err error) error {
	if errors.Is(err, anchor.ErrRolledBack) {
		return fmt.Errorf("anchor: %w; states of TPMs may be old, too: compare them with a backup, then run swtpm anchor remove and swtpm anchor update", err)
	}
	return fmt.Errorf("anchor: %w", err)
}

// openTPM opens a TPM device, or connects to a socket that accepts TPM commands.
func openTPM(name string) (transport.TPMCloser, error) {
	path, ok := strings.CutPrefix(name, "unix:")
	if !ok {
		t, err := linuxtpm.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("anchor: open the host's TPM: %w; this host has no TPM 2.0, or its driver is not loaded", err)
		}
		return t, err
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return socketTPM{conn}, nil
}

// socketTPM is a TPM behind a socket, such as the data channel of an emulator.
type socketTPM struct{ net.Conn }

// Send sends a command and returns the response.
func (s socketTPM) Send(cmd []byte) ([]byte, error) {
	if err := s.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if _, err := s.Write(cmd); err != nil {
		return nil, err
	}
	rsp := make([]byte, 4096)
	n, err := s.Read(rsp)
	return rsp[:n], err
}
