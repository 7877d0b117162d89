package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// storm starts many TPMs at once, as a host does when it boots, and then as many idle TPMs as fit
// into half of the free memory.
func (b *bench) storm() error {
	ref, ours := b.kinds()
	n := b.together
	var wall, work [2]float64
	for i, k := range []kind{ref, ours} {
		w, c, err := b.storms(k, n)
		if err != nil {
			return err
		}
		wall[i], work[i] = millis(w), millis(c)
	}
	b.one(row{Name: fmt.Sprintf("%d TPMs at once: until the last response", n), Unit: "ms"}, wall[0], wall[1])
	b.one(row{Name: fmt.Sprintf("%d TPMs at once: CPU of all", n), Unit: "ms"}, work[0], work[1])

	free, err := field("/proc/meminfo", "MemAvailable:")
	if err != nil {
		return err
	}
	if n = min(b.most, free/2/perTPM); n <= b.together || os.Geteuid() != 0 {
		return nil
	}
	return b.crowds(fmt.Sprintf("idle, mean of %d", n), n, ref, ours)
}

// perTPM is a generous estimate of the memory of a TPM, in kB.
const perTPM = 8 << 10

// storms starts n TPMs of a kind before it connects to the first. It returns the time until
// the last has answered and the processor time of all.
func (b *bench) storms(k kind, n int) (wall, work time.Duration, err error) {
	var servers []*server
	defer func() {
		for _, s := range servers {
			b.stop(s)
		}
	}()
	var dirs []string
	for range n {
		dir, err := b.existing(k)
		if err != nil {
			return 0, 0, err
		}
		dirs = append(dirs, dir)
	}
	begin := time.Now()
	for _, dir := range dirs {
		s, _, err := b.begin(k, dir)
		if err != nil {
			return 0, 0, err
		}
		servers = append(servers, s)
	}
	for _, s := range servers {
		if err := s.ready(time.Now()); err != nil {
			return 0, 0, fmt.Errorf("%d at once: %w", n, err)
		}
		work += s.cpu
	}
	return time.Since(begin), work, nil
}

// synced measures NV_Increment where both sync each change, if the reference can. Client and server have a processor
// each, because the kernel's threads that write to the disk need one, too.
func (b *bench) synced() error {
	ref, ours := b.kinds()
	ref.state = ",fsync"
	servers := [2]*server{}
	for i, k := range []kind{ref, ours} {
		s, err := b.counting(k)
		if err != nil && i == 0 {
			b.report.note("NV_Increment, both with a sync: not measured, the reference has no fsync: %s", strings.SplitN(err.Error(), "\n", 2)[0])
			b.stopAll()
			return nil
		}
		if err != nil {
			return err
		}
		servers[i] = s
	}
	var p pairs
	for round := range b.rounds {
		c, err := b.pair(servers[0], servers[1], work{request: increment, how: "both durable", count: b.stores, apart: true}, round)
		if err != nil {
			return err
		}
		p.add(c[0].p50, c[1].p50)
	}
	b.report.add(row{Name: "NV_Increment, both with a sync, two CPUs", Unit: "µs", Target: 0.9}, p, pairs{})
	for _, s := range servers {
		b.stop(s)
	}
	return nil
}
