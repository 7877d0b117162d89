package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/fleet"
	"github.com/swtpm-go/swtpm/internal/metrics"
)

// fresh is how long the result of a collection is used for further requests.
const fresh = time.Second

// endpoint answers with the metrics of the host.
type endpoint struct {
	ctx  context.Context
	host *fleet.Host

	mu   sync.Mutex // held while text and made are used; one collection at a time
	text []byte
	made time.Time
}

func metricsVerb(f *pflag.FlagSet) action {
	serve := f.Bool("serve", false, "serve HTTP on the socket that systemd passes, until the process ends")
	return func(ctx context.Context, _ []string) error {
		h, connect := fleet.OwnHost(), fleet.Systemd
		if *serve {
			h, connect = fleet.NewHost(), fleet.SystemBus // the service has a user of its own
		}
		h.Doctor = nil
		units, stop, err := connect(ctx)
		defer stop()
		if err == nil {
			h.Units = units
		}
		e := &endpoint{ctx: ctx, host: h}
		if *serve {
			return e.serve(ctx)
		}
		_, err = os.Stdout.Write(e.collect())
		return err
	}
}

// serve answers requests on the sockets of systemd.
func (e *endpoint) serve(ctx context.Context) error {
	sockets, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if len(sockets) != 1 || sockets[0] == nil {
		return errors.New("metrics: systemd passed no socket; start swtpm-metrics.socket")
	}
	const patience, maxHead = 10 * time.Second, 8 << 10
	server := &http.Server{Handler: e, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: patience, MaxHeaderBytes: maxHead}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(sockets[0]); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// ServeHTTP answers GET /metrics and GET /.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.URL.Path != "/metrics" && r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	text := e.collect()
	w.Header().Set("Content-Type", metrics.ContentType)
	_, _ = w.Write(text)
}

// collect returns the metrics, at most a second old.
func (e *endpoint) collect() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	begin := time.Now()
	if e.text == nil || begin.Sub(e.made) > fresh {
		tpms, notes := e.host.Collect(e.ctx)
		if e.host.Units == nil {
			notes = append(notes, "systemd")
		}
		e.text, e.made = fleet.Metrics(tpms, notes, time.Since(begin)), time.Now()
	}
	return e.text
}
