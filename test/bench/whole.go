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

// start measures the way from exec to the first response.
func (b *bench) start() error {
	for _, fresh := range []bool{false, true} {
		var first, work, faults pairs
		for round := range b.starts {
			s, err := b.startPair(fresh, round)
			if err != nil {
				return err
			}
			first.add(millis(s[0].first), millis(s[1].first))
			work.add(millis(s[0].cpu), millis(s[1].cpu))
			faults.add(float64(s[0].faults), float64(s[1].faults))
		}
		name, target := "exec to first response, existing state", 1.6
		if fresh {
			name, target = "exec to first response, fresh state", 0
		}
		b.report.add(row{Name: name, Unit: "ms", Target: target}, first, pairs{})
		b.report.add(row{Name: name + ": CPU", Unit: "ms"}, work, pairs{})
		b.report.add(row{Name: name + ": page faults", Unit: ""}, faults, pairs{})
	}
	return nil
}

// startPair starts and ends both; the second goes first in every other round.
func (b *bench) startPair(fresh bool, round int) (s [2]*server, err error) {
	var kinds [2]kind
	kinds[0], kinds[1] = b.kinds()
	for i := range kinds {
		at := (i + round) % 2
		var dir string
		if fresh {
			dir, err = b.newDir("")
		} else {
			dir, err = b.existing()
		}
		if err != nil {
			return s, err
		}
		if s[at], err = b.launch(kinds[at], dir); err != nil {
			return s, err
		}
		b.stop(s[at])
	}
	return s, nil
}

// idle measures what a TPM does, and is, while nobody asks it anything.
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
	var wakes, tasks pairs
	wakes.add(v[0], v[1])
	tasks.add(n[0], n[1])
	b.report.add(row{Name: "idle: wake-ups per second", Unit: "/s", Zero: true}, wakes, pairs{})
	b.report.add(row{Name: "idle: threads", Unit: ""}, tasks, pairs{})
	for _, s := range servers {
		b.stop(s)
	}
	return nil
}

// settled waits until no thread has run for a while, but not for ever: on a busy
// machine the end of the start may come late.
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

// memory measures what a TPM occupies, alone and as one of many.
func (b *bench) memory() error {
	unix.Sync() // pages of a program that was just built count as dirty until they are on disk
	for _, n := range []int{1, b.together} {
		var mean [2]memory
		var woken, total [2]float64 // per second; MB
		var kinds [2]kind
		kinds[0], kinds[1] = b.kinds()
		for i, k := range kinds {
			m, w, err := b.crowd(k, n)
			if errors.Is(err, fs.ErrPermission) {
				b.report.note("memory: not measured; ours protects its memory, so only root may look: %v", err)
				return nil
			}
			if err != nil {
				return err
			}
			mean[i], woken[i] = memory{pss: m.pss / n, private: m.private / n}, w
			total[i] = float64(m.pss) / 1024
		}
		var pss, private, all, wakes pairs
		pss.add(float64(mean[0].pss), float64(mean[1].pss))
		private.add(float64(mean[0].private), float64(mean[1].private))
		all.add(total[0], total[1])
		wakes.add(woken[0], woken[1])
		name, target := "idle, alone", 0.0
		if n > 1 {
			name, target = fmt.Sprintf("idle, mean of %d", n), 1.6
		}
		b.report.add(row{Name: name + ": PSS", Unit: "kB", Target: target}, pss, pairs{})
		b.report.add(row{Name: name + ": private dirty", Unit: "kB"}, private, pairs{})
		if n > 1 {
			b.report.add(row{Name: fmt.Sprintf("idle, all %d: PSS", n), Unit: "MB", Target: target}, all, pairs{})
			b.report.add(row{Name: fmt.Sprintf("idle, all %d: wake-ups per second", n), Unit: "/s", Zero: true}, wakes, pairs{})
		}
	}
	return nil
}

// crowd starts n TPMs of one kind together and looks at all of them: the memory that
// they occupy, and how often per second one of them wakes up. There are none of the
// other kind, with which they would share libraries.
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
	dir, err := b.existing()
	if err != nil {
		return nil, err
	}
	return b.launch(k, dir)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
