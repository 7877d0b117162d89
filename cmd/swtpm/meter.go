package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/io/listen"
	"github.com/swtpm-go/swtpm/internal/metrics"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// meter measures a TPM for [metrics]. Without the table it is nil, and nothing is
// measured.
type meter struct {
	file     string
	every    time.Duration
	instance string
	started  time.Time
	stores   map[string]*stores // by item; made once, so that no store allocates
	warn     func(format string, args ...any)
}

// stores counts the stores of one item.
type stores struct {
	took     *metrics.Histogram
	failures atomic.Uint64
}

// newMeter starts measuring if the profile asks for it; otherwise it returns nil. It sets o.Stored,
// so that the meter counts stores.
func newMeter(cfg *config.Config, instance string, o *emul.Options, log *daemon.Log) (*meter, error) {
	if cfg.Metrics.File == "" && cfg.Metrics.Listen.Kind == config.None {
		return nil, nil
	}
	if err := libtpms.Count(o.Version, metrics.Bounds); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m := &meter{
		file:     cfg.Metrics.File,
		every:    time.Duration(cfg.Metrics.Interval) * time.Second,
		instance: instance,
		started:  time.Now(),
		stores:   map[string]*stores{},
		warn:     log.Warnf,
	}
	for _, b := range tpm.Blobs {
		m.stores[b.Name()] = &stores{took: metrics.NewHistogram()}
	}
	o.Stored = m.stored
	return m, nil
}

// stored counts a store of an item.
func (m *meter) stored(item string, took time.Duration, err error) {
	s, ok := m.stores[item]
	if !ok {
		return
	}
	s.took.Add(took)
	if err != nil {
		s.failures.Add(1)
	}
}

// publish makes the control server's loop serve the numbers on l. If l is nil, they are written to the file
// in the background, and stop removes it. The caller closes l. Before each write, surplus threads end,
// because the heap is collected after some writes, which may cause a thread.
func (m *meter) publish(l *listen.Listener, t *emul.TPM, s servers, p *process) (stop func()) {
	if m == nil {
		return func() {}
	}
	text := func() []byte { return m.sample(t, s).Text() }
	if l != nil {
		metrics.Serve(s.ctrl, l, text)
		return func() {}
	}
	file := &metrics.File{Path: m.file, Every: m.every, Text: text, Warn: m.warn, Background: func(f func()) {
		p.memory.endThreads()
		p.background.run(f)
	}}
	file.Start(s.ctrl)
	return file.Stop
}

// sample returns the current numbers. It does not wait for a running command.
func (m *meter) sample(t *emul.TPM, servers servers) *metrics.Sample {
	tally, status := libtpms.Counted(), t.Status()
	s := &metrics.Sample{
		Version:  program.Version,
		Library:  libtpms.Version(),
		TPM:      t.Version().String(),
		Instance: m.instance,
		On:       status.On,
		Waiting:  status.Waiting != "",
		Waits:    status.Waits,
		Refused:  status.Refused,
		Limited:  t.Limited(),
		Started:  m.started,
		Now:      time.Now(),
		Commands: commandsOf(tally, t.Version()),
		Latency:  metrics.Durations{Buckets: tally.Buckets, Sum: tally.Took},
		Channels: []metrics.Channel{
			{Name: "data", Clients: servers.data.Clients(), Connections: servers.data.Connections()},
			{Name: "control", Clients: servers.ctrl.Clients(), Connections: servers.ctrl.Connections()},
		},
	}
	if all, pcrs, ok := t.PolicyFailures(); ok {
		s.Policies = &metrics.Policies{Failures: all, PCRs: pcrs}
	}
	for _, b := range tpm.Blobs {
		i := m.stores[b.Name()]
		s.Stores = append(s.Stores, metrics.Stores{Item: b.Name(), Took: i.took.Durations(), Failures: i.failures.Load()})
	}
	return s
}

// commandsOf returns the commands of a tally with their names.
func commandsOf(t libtpms.Tally, v tpm.Version) (out []metrics.Command) {
	for _, c := range t.Commands {
		m := metrics.Command{Name: c.Code.Name(v), Code: fmt.Sprintf("0x%x", uint32(c.Code)), Result: uint32(c.Result), Count: c.Count}
		if c.Code == libtpms.NoCode {
			m.Name, m.Code = "", "unknown"
		}
		out = append(out, m)
	}
	if t.Other > 0 {
		out = append(out, metrics.Command{Code: "other", Count: t.Other})
	}
	return out
}
