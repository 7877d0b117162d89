package broker

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// adoptAll tries to adopt the states of the previous run until it succeeds.
func (b *Broker) adoptAll(ctx context.Context) {
	for failing := false; ; failing = true {
		err := b.adopt(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failing:
			b.o.Log.Infof("the states of the previous run are known now")
			return
		case err == nil:
			return
		case !failing:
			b.o.Log.Errorf("the states of the previous run cannot be listed yet: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(b.o.pause):
		}
	}
}

// adopt finds the states that the previous run of this broker acquired, so that sweep releases them
// if no TPM resumes them.
func (b *Broker) adopt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.o.TTL)
	defer cancel()
	l := b.known()
	if l.nonce == "" {
		return nil
	}
	names, err := b.owned(ctx, l)
	if err != nil {
		return err
	}
	var failed error
	for _, name := range names {
		if err := b.adoptOne(ctx, name, l.nonce); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// owned returns the names of the states that this host owns. If the driver can do that, it does not
// read all states, because the store may have the states of hundreds of hosts.
func (b *Broker) owned(ctx context.Context, l lease) (names []string, err error) {
	if d, ok := b.o.Driver.(driver.OwnedLister); ok && l.id != 0 {
		return d.Owned(ctx, l.id)
	}
	all, err := b.o.Driver.List(ctx)
	for _, e := range all {
		if e.Owner.Is(l.nonce) {
			names = append(names, e.Name)
		}
	}
	return names, err
}

// adoptOne adopts the state name if the lease with this nonce still owns it.
func (b *Broker) adoptOne(ctx context.Context, name, nonce string) error {
	s := b.state(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer b.drop(s)
	if s.client != nil || s.token != 0 {
		return nil
	}
	now, err := b.o.Driver.Read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if now.Owner.Is(nonce) {
		s.take(now)
		s.pid = now.Owner.PID
		b.awaitReconnect(s, b.o.TTL)
	}
	return nil
}

// sweep releases the states whose TPMs have not connected again in time.
func (b *Broker) sweep(ctx context.Context) {
	b.mu.Lock()
	var all []*state
	for _, s := range b.states {
		all = append(all, s)
	}
	b.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		if s.client == nil && s.token != 0 && b.o.now() > s.until {
			wait, cancel := context.WithTimeout(ctx, b.o.Wait)
			err := b.giveUp(wait, s)
			cancel()
			if err == nil {
				b.o.Log.Infof("state %s released: its TPM did not connect again", s.name)
			}
		}
		b.forget(s)
		s.mu.Unlock()
	}
}

// state returns the entry of a state. For each call of state the caller calls drop once.
func (b *Broker) state(name string) *state {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.states[name]
	if s == nil {
		s = &state{name: name}
		b.states[name] = s
	}
	s.users++
	return s
}

// drop ends the use of an entry that state has returned. The caller holds s.mu.
func (b *Broker) drop(s *state) {
	b.mu.Lock()
	s.users--
	b.mu.Unlock()
	b.forget(s)
}

// forget removes the entry of a state that this host does not own and no client has open, because
// a client may open any number of names. The caller holds s.mu.
func (b *Broker) forget(s *state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.users == 0 && s.client == nil && s.token == 0 && b.states[s.name] == s {
		delete(b.states, s.name)
	}
}
