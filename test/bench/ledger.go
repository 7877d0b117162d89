package main

import (
	"fmt"
	"path/filepath"
	"time"
)

const (
	ledgerTarget = 1.03 // of the time of a plain command
	measured     = 60   // PCRs that a guest extends while it boots, about

	// written is more than the time after the last command until the ledger is written.
	written = 4 * time.Second
)

// ledgerKind returns ours with a boot ledger, or without one.
func (b *bench) ledgerKind(keep string) kind {
	_, k := b.kinds()
	k.name = "ours, ledger " + keep
	k.profile = "flags.not-need-init = true\nflags.startup = \"clear\"\ninterface.server = \"unix:d\"\ncontrol.listen = \"unix:c\"\n" +
		"tpmstate.dir = \".\"\nledger.keep = \"" + keep + "\"\n"
	return k
}

// ledger compares ours without a boot ledger, the first column, with ours that records one.
func (b *bench) ledger() error {
	off, on := b.ledgerKind("none"), b.ledgerKind("boots")
	if err := b.ledgerTimes(off, on); err != nil {
		return err
	}
	b.report.note("rows of the boot ledger: the first column is ours without it")
	return b.ledgerMemory(off, on)
}

// ledgerTimes measures plain commands: those that measure, and those that do not.
func (b *bench) ledgerTimes(off, on kind) error {
	if err := precise(); err != nil {
		return err
	}
	var servers [2]*server
	for i, k := range []kind{off, on} {
		var err error
		if servers[i], err = b.launchExisting(k); err != nil {
			return err
		}
		defer b.stop(servers[i])
	}
	end, err := b.takeTurns(servers[:])
	if err != nil {
		return err
	}
	defer end()
	works := make([]work, 0, len(plain))
	for _, q := range plain {
		works = append(works, work{q, "back to back, one CPU", b.backToBack, 0, false, ledgerTarget})
	}
	times, tails := make([]pairs, len(works)), make([]pairs, len(works))
	for round := range b.rounds {
		for i, w := range works {
			c, err := b.pair(servers[0], servers[1], w, round)
			if err != nil {
				return err
			}
			times[i].add(c[0].p50, c[1].p50)
			tails[i].add(c[0].p99, c[1].p99)
		}
	}
	sleep(written)
	if boots(servers[0].dir) != 0 || boots(servers[1].dir) != 1 {
		return fmt.Errorf("%d boots are recorded without the ledger and %d with it, want 0 and 1", boots(servers[0].dir), boots(servers[1].dir))
	}
	for i, w := range works {
		b.report.add(row{Name: "boot ledger: " + w.name + ", " + w.how, Unit: "µs", Target: w.target}, times[i], tails[i])
	}
	return nil
}

// boots returns the number of the files of boots in a directory of state.
func boots(dir string) int {
	files, _ := filepath.Glob(filepath.Join(dir, "*.boot-*")) // the pattern is valid
	return len(files)
}

// ledgerMemory compares TPMs that extended a PCR as often as a boot does.
func (b *bench) ledgerMemory(off, on kind) error {
	n := min(b.together, 25)
	var private [2]float64
	for i, k := range []kind{off, on} {
		sum, err := b.afterBoot(k, n)
		if err != nil {
			return err
		}
		private[i] = float64(sum.private) / float64(n)
	}
	b.one(row{Name: fmt.Sprintf("boot ledger: private dirty, mean of %d after %d measurements", n, measured), Unit: "kB"}, private[0], private[1])
	b.report.note("the boot ledger adds %.1f kB to an instance, target 16", private[1]-private[0])
	return nil
}

// afterBoot returns the memory of n TPMs of one kind after a boot.
func (b *bench) afterBoot(k kind, n int) (sum memory, err error) {
	var servers []*server
	defer func() {
		for _, s := range servers {
			b.stop(s)
		}
	}()
	for range n {
		s, err := b.launchExisting(k)
		if err != nil {
			return sum, err
		}
		servers = append(servers, s)
		if _, err := measure(s.data, extend, measured, 0); err != nil {
			return sum, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	sum, _, err = b.quietly(servers)
	return sum, err
}
