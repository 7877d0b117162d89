package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// causes finds out in the background why no member can be reached, because the client library only
// reports "deadline exceeded".
type causes struct {
	mu      sync.Mutex
	running bool
	since   time.Time // of the last probe
	text    string    // of the errors of the members, "" if all answered
}

const (
	probePause = 2 * time.Second  // between two probes
	probeValid = 10 * time.Second // how long a result is used
)

// startProbe begins to probe the members, unless a probe is running or the last one ended less than
// probePause ago.
func (s *Store) startProbe() {
	c := &s.causes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || time.Since(c.since) < probePause {
		return
	}
	c.running = true
	go func() {
		var texts []string
		for _, url := range s.options.Endpoints {
			if _, _, err := s.probe(context.Background(), url); err != nil {
				texts = append(texts, url+": "+err.Error())
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running, c.since, c.text = false, time.Now(), strings.Join(texts, "; ")
	}()
}

// opening adds the reason why no member can be reached to err, an error of Open.
func (s *Store) opening(err error) error {
	if !errors.Is(err, driver.ErrUnreachable) {
		return err
	}
	for _, url := range s.options.Endpoints {
		if _, _, failed := s.probe(context.Background(), url); failed != nil {
			err = fmt.Errorf("%w; %s: %w", err, url, failed)
		}
	}
	return err
}

// cause returns what the last probe found, with a colon before it; "" for nothing.
func (s *Store) cause() string {
	c := &s.causes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.text == "" || time.Since(c.since) > probeValid {
		return ""
	}
	return ": " + c.text
}

// ready waits until a member is connected. Its error means that no request was sent.
func (s *Store) ready(ctx context.Context) error {
	conn := s.client.ActiveConnection()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			conn.Connect()
		case connectivity.TransientFailure:
			s.startProbe()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("%w: no member is connected%s", driver.ErrUnreachable, s.cause())
		}
	}
}

// failed classifies the error of a request that was sent. If the request got no reply, the result
// is other: ErrUnknown if the request may have changed something.
func (s *Store) failed(err, other error) error {
	err = classify(err, other)
	if errors.Is(err, driver.ErrUnreachable) || errors.Is(err, driver.ErrUnknown) {
		s.startProbe()
		if text := s.cause(); text != "" {
			return fmt.Errorf("%w%s", err, text)
		}
	}
	return err
}

// Position implements driver.Positioner.
func (s *Store) Position(ctx context.Context) (driver.Position, error) {
	if err := s.ready(ctx); err != nil {
		return driver.Position{}, err
	}
	rsp, err := s.client.Get(leading(ctx), s.prefix+"position")
	if err != nil {
		return driver.Position{}, s.failed(err, driver.ErrUnreachable)
	}
	return driver.Position{Cluster: rsp.Header.ClusterId, Revision: uint64(rsp.Header.Revision), Prefix: cmp.Or(strings.TrimSuffix(s.prefix, "/"), "/")}, nil
}
