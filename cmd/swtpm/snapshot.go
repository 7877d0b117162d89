package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/offline"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// snapshotVerb is swtpm state snapshot.
type snapshotVerb struct {
	ctrl     string
	instance string
	json     bool
	pass     *passFlags
}

func stateSnapshot(f *pflag.FlagSet) action {
	v := &snapshotVerb{}
	f.StringVar(&v.ctrl, "ctrl", "", "connect to the control channel at `SOCKET`: unix:PATH, tcp:HOST:PORT or a path with a slash, also of a CUSE device")
	f.StringVar(&v.instance, "instance", "", "replace %i in the profile with `NAME`; default: the profile's name")
	f.BoolVar(&v.json, "json", false, "print JSON")
	v.pass = addPassFlags(f)
	return func(ctx context.Context, args []string) error {
		file := args[len(args)-1]
		switch {
		case v.ctrl != "" && len(args) == 2:
			return misused(f.Name(), fmt.Errorf("unexpected argument %q: give a PROFILE or --ctrl, not both", args[0]))
		case v.ctrl == "" && len(args) == 1:
			return misused(f.Name(), fmt.Errorf("%q is the only argument: give PROFILE and FILE, or --ctrl and FILE", file))
		}
		network, address, err := v.address(args[0])
		if err != nil {
			return err
		}
		if err := sandbox.Harden(); err != nil { // before there is a secret in memory
			return err
		}
		return v.run(ctx, network, address, file)
	}
}

// address returns the socket of the control channel of --ctrl or a profile.
func (v *snapshotVerb) address(profile string) (network, address string, err error) {
	var e config.Endpoint
	if v.ctrl != "" {
		if e, err = config.ParseSocket(v.ctrl); err != nil {
			return "", "", stateUsage(fmt.Errorf("--ctrl: %w", err))
		}
	} else {
		cfg, err := load(profile, v.instance)
		if err != nil {
			return "", "", err
		}
		if cfg.Interface.Type == config.CUSE {
			return "unix", "/dev/" + cfg.Interface.Name, nil
		}
		if e = cfg.Control.Listen; e.Kind == config.Unix && cfg.Sandbox.Chroot != "" {
			return "", "", fmt.Errorf("%s: its paths are relative to [sandbox] chroot, %s; name the socket with --ctrl", profile, cfg.Sandbox.Chroot)
		}
	}
	switch e.Kind {
	case config.Unix:
		return "unix", e.Path, nil
	case config.TCP:
		return "tcp", strings.TrimPrefix(e.String(), "tcp:"), nil
	}
	return "", "", fmt.Errorf("%s: no address of a control channel; name the socket with --ctrl", profile)
}

// run creates the file before it asks for the snapshot: a snapshot that cannot be written
// would only delay the guest.
func (v *snapshotVerb) run(ctx context.Context, network, address, file string) (err error) {
	pass, err := v.pass.read()
	if err != nil {
		return err
	}
	defer pass.Close()
	out, err := createNew(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.close()) }()
	s, err := fetchSnapshot(ctx, network, address, pass != nil)
	if err != nil {
		return err
	}
	a := offline.FromSnapshot(s, "swtpm-go "+program.Version)
	defer a.Wipe()
	b, err := a.Encode(passBytes(pass))
	if err != nil {
		return err
	}
	defer seal.Wipe(b)
	if err := out.write(b); err != nil {
		return err
	}
	return v.report(s, a, file, pass != nil)
}

// dialControl connects to a control channel: a socket, or the character device of swtpm cuse.
func dialControl(ctx context.Context, network, address string) (*ctrl.Client, error) {
	if fi, err := os.Stat(address); network == "unix" && err == nil && fi.Mode()&os.ModeCharDevice != 0 {
		return ctrl.OpenDevice(address, 0)
	}
	return ctrl.Dial(ctx, network, address)
}

// fetchSnapshot requests a snapshot, without the encryption of the state file if plain is
// true.
func fetchSnapshot(ctx context.Context, network, address string, plain bool) (*tpm.Snapshot, error) {
	c, err := dialControl(ctx, network, address)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("the TPM is not running; use swtpm state export: %w", err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w; run this as root or as the user of the TPM", err)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, _, err := c.Snapshot(plain)
	r, refused := errors.AsType[tpm.Result](err)
	switch {
	case refused && r == tpm.BadOrdinal:
		return nil, fmt.Errorf("%w: the TPM is off; use swtpm state export", err)
	case refused:
		return nil, fmt.Errorf("%w: the emulator at %s cannot make a snapshot: it is swtpm or an older version, it migrates, or it cannot read its state; "+
			"see its log; if the state is intact, power the TPM off and use swtpm state export", err, address)
	}
	return s, err
}

// report prints the identity, the generation and the time of the snapshot, which the program that
// copies the disk needs.
func (v *snapshotVerb) report(s *tpm.Snapshot, a *offline.Archive, file string, pass bool) error {
	identity, encrypted := hex.EncodeToString(s.Identity[:]), a.BlobsEncrypted()
	if v.json {
		return printJSON(struct {
			File       string    `json:"file"`
			TPM        string    `json:"tpm"`
			Identity   string    `json:"identity"`
			Generation uint64    `json:"generation"`
			Time       time.Time `json:"time"`
			Items      []string  `json:"items"`
			Encrypted  bool      `json:"encrypted"`
			Passphrase bool      `json:"passphrase"`
		}{file, s.Version.String(), identity, s.Generation, s.Time.UTC(), a.Kinds(), encrypted, pass})
	}
	how := "in the clear"
	switch {
	case encrypted && pass:
		how = "under its migration key and the passphrase"
	case encrypted:
		how = "encrypted by the emulator"
	case pass:
		how = "under the passphrase"
	}
	err := say("TPM %s: generation %d of %s at %s: written to %s, %s (%s)\n", s.Version, s.Generation, identity,
		s.Time.UTC().Format(time.RFC3339Nano), file, how, strings.Join(a.Kinds(), ", "))
	if err == nil && !encrypted && !pass {
		warnf("%s contains the secrets of the TPM in the clear", file)
	}
	return err
}
