package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long a TPM is left alone before it counts as idle.
const settle = time.Second

// idle measures the wake-ups and the memory of a TPM without requests.
func (b *bench) idle() error {
	ref, ours := b.kinds()
	var servers []*server
	for _, k := range []kind{ref, ours} {
		s, err := b.launchExisting(k)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	if err := settled(servers); err != nil {
		return err
	}
	var v, n [2]float64
	for i, s := range servers {
		c, err := waits(s.pid)
		if err != nil {
			return err
		}
		v[i] = -float64(c)
		t, err := threads(s.pid)
		if err != nil {
			return err
		}
		n[i] = float64(t)
	}
	sleep(b.quiet)
	for i, s := range servers {
		c, err := waits(s.pid)
		if err != nil {
			return err
		}
		v[i] = (v[i] + float64(c)) / b.quiet.Seconds()
	}
	b.one(row{Name: "idle: wake-ups per second", Unit: "/s", Zero: true}, v[0], v[1])
	b.one(row{Name: "idle: threads"}, n[0], n[1])
	many, err := servers[1].withClients(16)
	if err != nil {
		return err
	}
	b.one(row{Name: "16 data clients: threads (the reference has one client)"}, n[0], float64(many))
	for _, s := range servers {
		b.stop(s)
	}
	return nil
}

// settled waits until no thread has run for a while, with a limit: on a busy machine the end of
// the start may come late.
func settled(servers []*server) error {
	for last, end := -1, time.Now().Add(10*settle); time.Now().Before(end); {
		sum, err := allWaits(servers)
		if err != nil {
			return err
		}
		if sum == last {
			return nil
		}
		last = sum
		sleep(settle)
	}
	return nil
}

// memory measures what a TPM occupies, alone and as one of many, and with one processor for
// its Go runtime.
func (b *bench) memory() error {
	unix.Sync() // pages of a program that was just built count as dirty until they are on disk
	ref, ours := b.kinds()
	single := ours
	single.env = []string{"GOMAXPROCS=1"}
	for _, g := range []struct {
		name string
		n    int
		ours kind
	}{
		{"idle, alone", 1, ours},
		{fmt.Sprintf("idle, mean of %d", b.together), b.together, ours},
		{fmt.Sprintf("idle, mean of %d, GOMAXPROCS=1", b.together), b.together, single},
	} {
		err := b.crowds(g.name, g.n, ref, g.ours)
		if errors.Is(err, fs.ErrPermission) {
			b.report.note("memory: not measured; ours protects its memory, so only root may read it: %v", err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// crowds compares n TPMs of each kind.
func (b *bench) crowds(name string, n int, ref, ours kind) error {
	var mean [2]memory
	var woken, total [2]float64 // per second; MB
	for i, k := range []kind{ref, ours} {
		m, w, err := b.crowd(k, n)
		if err != nil {
			return err
		}
		mean[i], woken[i] = memory{pss: m.pss / n, private: m.private / n}, w
		total[i] = float64(m.pss) / 1024
	}
	target := 0.0
	if n > 1 {
		target = 1.05
	}
	b.one(row{Name: name + ": PSS", Unit: "kB", Target: target}, float64(mean[0].pss), float64(mean[1].pss))
	b.one(row{Name: name + ": private dirty", Unit: "kB"}, float64(mean[0].private), float64(mean[1].private))
	if n > 1 {
		b.one(row{Name: name + ": PSS of all", Unit: "MB"}, total[0], total[1])
		b.one(row{Name: name + ": wake-ups per second of all", Unit: "/s", Zero: true}, woken[0], woken[1])
	}
	return nil
}

// one adds a row with one value of each side.
func (b *bench) one(r row, ref, ours float64) {
	var p pairs
	p.add(ref, ours)
	b.report.add(r, p, pairs{})
}

// crowd starts n TPMs of one kind and returns the memory that they occupy, and how often per
// second one of them wakes up. No TPM of the other kind runs, because they would share
// libraries.
func (b *bench) crowd(k kind, n int) (sum memory, wakes float64, err error) {
	var servers []*server
	defer func() {
		for _, s := range servers {
			b.stop(s)
		}
	}()
	for range n {
		s, err := b.launchExisting(k)
		if err != nil {
			return sum, 0, err
		}
		servers = append(servers, s)
	}
	return b.quietly(servers)
}

// quietly returns the memory of servers, and their wake-ups per second.
func (b *bench) quietly(servers []*server) (sum memory, wakes float64, err error) {
	if err := settled(servers); err != nil {
		return sum, 0, err
	}
	before, err := allWaits(servers)
	if err != nil {
		return sum, 0, err
	}
	sleep(b.quiet)
	after, err := allWaits(servers)
	if err != nil {
		return sum, 0, err
	}
	for _, s := range servers {
		m, err := readMemory(s.pid)
		if err != nil {
			return sum, 0, err
		}
		sum.pss += m.pss
		sum.private += m.private
	}
	return sum, float64(after-before) / b.quiet.Seconds(), nil
}

// allWaits is the sum of waits.
func allWaits(servers []*server) (sum int, err error) {
	for _, s := range servers {
		n, err := waits(s.pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (b *bench) launchExisting(k kind) (*server, error) {
	dir, err := b.existing(k)
	if err != nil {
		return nil, err
	}
	return b.launch(k, dir)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
