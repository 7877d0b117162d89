package main

import (
	"context"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// awaitKeys calls readKeys, but returns early when ctx ends, because a key may come through a
// pipe whose writer is slow.
func awaitKeys(ctx context.Context, cfg *config.Config) (seal.Keys, error) {
	if cfg.Key.Source == config.NoKey && cfg.MigrationKey.Source == config.NoKey {
		return seal.Keys{}, nil
	}
	return program.Await(ctx, func() (seal.Keys, error) { return readKeys(cfg) })
}

// readKeys reads the key of the state and the migration key, which encrypts the blobs that
// leave through the control channel.
func readKeys(cfg *config.Config) (keys seal.Keys, err error) {
	if keys.File, err = readKey("key", cfg.Key); err != nil {
		return keys, err
	}
	keys.Migration, err = readKey("migration-key", cfg.MigrationKey)
	return keys, err
}

// readKey reads the key of an option. It returns nil if k names none.
func readKey(option string, k config.Key) (*seal.Key, error) {
	if k.Source == config.NoKey {
		return nil, nil
	}
	path := k.Path
	if k.Source == config.KeyCredential {
		var err error
		if path, err = daemon.Credential(k.Name); err != nil {
			return nil, fmt.Errorf("--%s: %w", option, err)
		}
	}
	key, err := seal.ReadKey(seal.Source{
		Path:       path,
		FD:         k.FD,
		Passphrase: k.Source == config.PassFile || k.Source == config.PassFD,
		Hex:        k.Hex,
		KDF:        k.KDF,
		Bits:       k.Bits,
		Remove:     k.Remove,
	})
	if err != nil {
		return nil, doctor.AppendRemedy(fmt.Errorf("--%s: %w", option, err), doctor.Key(err))
	}
	return key, nil
}

// logKeyWarnings logs the warnings about the key of an option. k may be nil.
func logKeyWarnings(option string, k *seal.Key, warn func(format string, args ...any)) {
	if k == nil {
		return
	}
	for _, text := range k.Warnings() {
		warn("--%s: %s", option, text)
	}
}

// closeKeys clears the keys.
func closeKeys(k seal.Keys) {
	for _, key := range []*seal.Key{k.File, k.Migration} {
		if key != nil {
			_ = key.Close()
		}
	}
}
