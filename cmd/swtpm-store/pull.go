package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/etcd"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/store"
)

// pull copies a state to a directory, without a broker.
type pull struct {
	endpoint   string
	prefix     string
	snapshot   string
	generation uint64
	force      bool

	configured  bool // the command line names the configuration
	name, where string
}

func (p *pull) flags(f *pflag.FlagSet) {
	f.StringVar(&p.endpoint, "endpoint", "", "")
	f.StringVar(&p.prefix, "prefix", "", "")
	f.StringVar(&p.snapshot, "snapshot", "", "")
	f.Uint64Var(&p.generation, "generation", 0, "")
	f.BoolVar(&p.force, "force", false, "")
}

func (p *pull) operands(args []string) error {
	switch {
	case len(args) != 2:
		return errors.New("pull needs two arguments: the name of a state and a directory")
	case p.snapshot != "" && (p.endpoint != "" || p.generation != 0):
		return errors.New("--snapshot excludes --endpoint and --generation")
	}
	p.name, p.where = strings.TrimPrefix(args[0], "store://"), args[1]
	if !store.ValidName(p.name) {
		return fmt.Errorf("%q is not the name of a state", p.name)
	}
	return nil
}

// run reads the state from a snapshot or from the store, and writes a file for each item.
func (p *pull) run(ctx context.Context, config string) error {
	state, err := p.read(ctx, config)
	if err != nil {
		return err
	}
	if err := state.Owner.Unreadable(); err != nil && p.snapshot == "" && !p.force {
		return fmt.Errorf("state %s: %w; --force copies it nevertheless", p.name, err)
	}
	if o := state.Owner; o != nil && p.snapshot == "" && !p.force {
		return fmt.Errorf("state %s is owned by host %q, process %d, since %s, epoch %d: two copies would run; stop the TPM there, or wait until its lease expires; "+
			"--force copies it nevertheless", p.name, o.Host, o.PID, o.Since.UTC().Format(time.RFC3339), state.Epoch)
	}
	if len(state.Items) == 0 {
		return fmt.Errorf("state %s has no items", p.name)
	}
	if err := p.write(state.Items); err != nil {
		return err
	}
	if p.generation == 0 && state.Damage != nil {
		return fmt.Errorf("state %s: %w: nothing shows whether its items belong together; use the copy in %s only if swtpm state verify with the key succeeds there, "+
			"or copy a stored generation: --generation N", p.name, state.Damage, p.where)
	}
	if p.generation == 0 && state.Items.Sum() != state.Head.Sum {
		return fmt.Errorf("the items of state %s are not those of generation %d: it is damaged, or was read in the middle of a change; the copy in %s is of use for an examination only; "+
			"copy a stored generation: --generation N", p.name, state.Head.Generation, p.where)
	}
	fmt.Printf("state %s, generation %d, epoch %d: copied to %s (%s)\n", p.name, state.Head.Generation, state.Epoch, p.where, strings.Join(slices.Sorted(maps.Keys(state.Items)), ", "))
	fmt.Printf("The state is still in the store. Before a TPM runs from %s, make sure that none starts with store://%s: two copies would diverge.\n", p.where, p.name)
	return nil
}

// read returns the state.
func (p *pull) read(ctx context.Context, config string) (*driver.State, error) {
	if p.snapshot != "" {
		return etcd.ReadSnapshot(p.snapshot, p.prefixOr("/swtpm"), p.name)
	}
	o := etcd.Options{Endpoints: []string{p.endpoint}, Prefix: p.prefixOr("/swtpm")}
	if p.endpoint == "" || p.configured || strings.HasPrefix(p.endpoint, "https:") {
		cfg, err := load(config)
		if errors.Is(err, fs.ErrNotExist) && p.endpoint == "" {
			return nil, fmt.Errorf("%w; give --config FILE, or --endpoint URL", err)
		}
		if err != nil {
			return nil, err
		}
		if o, err = cfg.etcd(); err != nil {
			return nil, fmt.Errorf("%s: %w", config, err)
		}
		o.Prefix = p.prefixOr(o.Prefix)
		if p.endpoint != "" {
			o.Endpoints = []string{p.endpoint}
		}
	}
	d, err := etcd.Open(o)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	state, err := d.Read(ctx, p.name)
	if err == nil && p.generation != 0 {
		state.Items, err = d.Generation(ctx, p.name, p.generation)
		state.Head.Generation = p.generation
	}
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", p.name, err)
	}
	return state, nil
}

func (p *pull) prefixOr(other string) string {
	if p.prefix != "" {
		return p.prefix
	}
	return other
}

// write makes the directory, if it is missing, and the files, which must not exist.
func (p *pull) write(items driver.Items) error {
	if err := os.Mkdir(p.where, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	dir, err := safefile.Open(p.where)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range slices.Sorted(maps.Keys(items)) {
		if !store.ValidName(name) {
			return fmt.Errorf("the store has an item with the invalid name %q", name)
		}
		f, err := dir.Create(name, 0o640)
		if errors.Is(err, os.ErrExist) {
			err = fmt.Errorf("%s/%s already exists; name another directory", p.where, name)
		}
		if err != nil {
			return err
		}
		_, err = f.Write(items[name])
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("%s/%s: %w", p.where, name, err)
		}
	}
	return dir.Sync()
}
