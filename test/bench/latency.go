package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// gap is the time between two commands of a guest that is busy with its TPM.
const gap = 400 * time.Microsecond

// work is one kind of latency: a request, how it is sent, and the server that answers it.
type work struct {
	request
	how    string // for people
	count  int    // per round
	pause  time.Duration
	apart  bool // client and server on two processors
	target float64
}

// works lists the measurements. increments come last: they are few, because each may wait for the
// disk.
func (b *bench) works() (list []work) {
	add := func(q request, count int, target float64) {
		list = append(list, work{q, "back to back, one CPU", b.backToBack, 0, false, target})
		list = append(list, work{q, "0.4 ms gaps, one CPU", count, gap, false, target})
		if target > 0 {
			list[len(list)-1].target = 1.1
		}
	}
	for _, q := range plain {
		add(q, b.gapped, 1.0)
	}
	list = append(list, work{random, "0.4 ms gaps, two CPUs", b.gapped, gap, true, 1.1})
	for _, q := range controls {
		list = append(list, work{q, "back to back, one CPU", b.backToBack, 0, false, 1.0})
		list = append(list, work{q, "0.4 ms gaps, one CPU", b.gapped, gap, false, 1.15})
	}
	return list
}

// latency measures the time and the processor time of commands and requests.
func (b *bench) latency() error {
	if err := precise(); err != nil {
		return err
	}
	servers, err := b.latencyServers()
	if err != nil {
		return err
	}
	end, err := b.takeTurns(servers)
	if err != nil {
		return err
	}
	defer end()
	works := b.works()
	store := work{request: increment, how: "back to back, one CPU", count: b.stores}
	times, costs := make([]pairs, len(works)), make([]pairs, len(works))
	tails := make([]pairs, len(works))
	var durable, durableTail, loose, looseTail pairs
	for round := range b.rounds {
		for i, w := range works {
			c, err := b.pair(servers[0], servers[1], w, round)
			if err != nil {
				return err
			}
			times[i].add(c[0].p50, c[1].p50)
			tails[i].add(c[0].p99, c[1].p99)
			costs[i].add(c[0].cpu, c[1].cpu)
		}
		c, err := b.pair(servers[0], servers[1], store, round)
		if err != nil {
			return err
		}
		durable.add(c[0].p50, c[1].p50)
		durableTail.add(c[0].p99, c[1].p99)
		if c, err = b.pair(servers[0], servers[2], store, round); err != nil {
			return err
		}
		loose.add(c[0].p50, c[1].p50)
		looseTail.add(c[0].p99, c[1].p99)
	}
	for _, s := range servers {
		b.stop(s)
	}

	for i, w := range works {
		b.report.add(row{Name: w.name + ", " + w.how, Unit: "µs", Target: w.target}, times[i], tails[i])
	}
	if err := b.connections(); err != nil {
		return err
	}
	if err := b.synced(); err != nil {
		return err
	}
	b.report.add(row{Name: "NV_Increment, ours durable", Unit: "µs"}, durable, durableTail)
	b.report.add(row{Name: "NV_Increment, ours durability=relaxed", Unit: "µs"}, loose, looseTail)
	b.report.note("NV_Increment: the reference never syncs; a response of ours leaves when the change is on disk, unless durability=relaxed")
	b.costs(works, costs)
	return nil
}

// costs adds the rows of the processor time of commands with gaps.
func (b *bench) costs(works []work, costs []pairs) {
	for i, w := range works {
		if w.pause > 0 && !w.control {
			b.report.add(row{Name: "server CPU: " + w.name + ", " + w.how, Unit: "µs", Target: 1.2}, costs[i], pairs{})
		}
	}
}

// latencyServers starts the reference, ours, and ours with durability=relaxed.
func (b *bench) latencyServers() (servers []*server, err error) {
	ref, ours := b.kinds()
	relaxed := ours
	relaxed.state = ",durability=relaxed"
	for _, k := range []kind{ref, ours, relaxed} {
		s, err := b.counting(k)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// counting starts a TPM with a counter for NV_Increment.
func (b *bench) counting(k kind) (*server, error) {
	dir, err := b.existing(k)
	if err != nil {
		return nil, err
	}
	s, err := b.launch(k, dir)
	if err != nil {
		return nil, err
	}
	for _, q := range append([]request{defineCounter, increment, random}, controls...) {
		if _, err := measure(s.socket(q), q, 1, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return s, nil
}

func (s *server) socket(q request) int {
	if q.control {
		return s.ctrl
	}
	return s.data
}

// cost is what one round showed of one server, in µs.
type cost struct{ p50, p99, cpu float64 }

// pair measures w with two servers; the second goes first in every other round.
func (b *bench) pair(x, y *server, w work, round int) (c [2]cost, err error) {
	servers := [2]*server{x, y}
	for i := range servers {
		at := (i + round) % 2
		if c[at], err = servers[at].one(w); err != nil {
			return c, fmt.Errorf("%s: %s: %w", servers[at].name, w.how, err)
		}
	}
	return c, nil
}

// one measures w with one server.
func (s *server) one(w work) (c cost, err error) {
	list, all, err := processors()
	if err != nil {
		return c, err
	}
	client := list[len(list)-1]
	other := client
	if w.apart {
		other = list[0]
	}
	if err := bind(s.pid, other); err != nil {
		return c, err
	}
	var here unix.CPUSet
	here.Set(client)
	if err := unix.SchedSetaffinity(0, &here); err != nil {
		return c, err
	}
	defer unix.SchedSetaffinity(0, &all)

	fd := s.socket(w.request)
	if _, err := measure(fd, w.request, min(10, w.count), w.pause); err != nil { // warm
		return c, err
	}
	before, err := cpu(s.pid)
	if err != nil {
		return c, err
	}
	took, err := measure(fd, w.request, w.count, w.pause)
	if err != nil {
		return c, err
	}
	after, err := cpu(s.pid)
	return cost{
		p50: micros(percentile(took, 50)),
		p99: micros(percentile(took, 99)),
		cpu: micros(after-before) / float64(w.count),
	}, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
