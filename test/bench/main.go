// Command bench compares this swtpm with the reference, both on the same libtpms, and prints
// one table: the time and the processor time of commands, of starts and of swtpm_setup, and
// the cost of idle TPMs. With SWTPM_BENCH_VS=PATH a second table compares it with the emulator
// PATH.
//
//	go run ./test/bench -ours bin/swtpm
//
// What keeps the comparison fair:
//
//   - The two run in turn, in rounds, and which goes first alternates. A value is
//     the median of the rounds, a ratio the median of the ratios within a round,
//     so what else the machine does hits both.
//   - The client is one locked thread that makes raw system calls without
//     passing through the Go scheduler; see exchange.
//   - Both programs are copied to files of the same directory: the page cache holds a file that
//     the linker wrote in larger pieces than a copy, which saves page faults.
//   - Where a row says "one CPU", the client's thread and all threads of the
//     server are bound to the same processor after the server has started: it
//     counts what the server does, not where the kernel puts it. "Two CPUs" binds
//     them to two. A server always starts unbound, so that it sees the machine
//     as it is. Starts and memory are measured unbound.
//   - For the times of commands and requests, client and servers have the policy SCHED_FIFO: no thread
//     interrupts another one that runs. Otherwise two equal TPMs may differ by 20 %; see inTurn.
//
// The times depend on the machine; the counts (faults, threads, wake-ups, kB)
// hardly do. No slow row is a failure: the reader decides.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// plan says what to measure and how often.
type plan struct {
	ref, ours string // programs
	refDir    string // the directory of ref, which has swtpm_setup too
	oursDir   string
	dir       string // for states and sockets
	only      []string

	rounds     int // of latencies
	backToBack int // commands per round
	gapped     int
	stores     int           // commands per round that change the state on disk
	starts     int           // pairs of starts
	quiet      time.Duration // in which wake-ups are counted
	together   int           // instances started together
	most       int           // idle instances at the most
}

func (p *plan) wants(part string) bool {
	return len(p.only) == 0 || slices.Contains(p.only, part)
}

func parse(args []string) (p plan, asJSON bool, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := f.Bool("quick", false, "a few seconds that show that everything can be measured; the figures are rough")
	f.BoolVar(&asJSON, "json", false, "print JSON rather than a table")
	f.StringVar(&p.ref, "ref", "/usr/bin/swtpm", "the program to compare with")
	f.StringVar(&p.ours, "ours", "bin/swtpm", "the program to look at")
	f.StringVar(&p.dir, "dir", os.TempDir(), "directory for states: its file system is what NV_Increment waits for")
	f.IntVar(&p.together, "n", 200, "number of idle instances that are looked at together")
	f.IntVar(&p.rounds, "rounds", 31, "rounds of latencies")
	only := f.String("only", "", "measure only these parts: latency,start,storm,setup,idle,memory,store,ledger")
	if err := f.Parse(args); err != nil {
		return p, false, err
	}
	if f.NArg() > 0 {
		return p, false, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	p.backToBack, p.gapped, p.stores, p.starts, p.quiet, p.most = 1000, 80, 20, 31, 5*time.Second, 1000
	if *quick {
		p.rounds, p.backToBack, p.gapped, p.stores, p.starts = 3, 500, 50, 5, 3
		p.quiet, p.together = time.Second, min(p.together, 5)
		p.most = p.together
	}
	if *only != "" {
		p.only = strings.Split(*only, ",")
	}
	if p.rounds < 1 || p.together < 1 {
		return p, false, errors.New("-rounds and -n are at least 1")
	}
	for _, path := range []*string{&p.ref, &p.ours} {
		if *path, err = filepath.Abs(*path); err != nil {
			return p, false, err
		}
		if _, err := os.Stat(*path); err != nil {
			return p, false, fmt.Errorf("%w; build ours with `make build`, install the reference as package swtpm", err)
		}
	}
	return p, asJSON, nil
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	p, asJSON, err := parse(args)
	if err != nil {
		return err
	}
	// The children die with the thread that starts them: it stays.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	refs := []string{p.ref}
	if vs := os.Getenv(vsVar); vs != "" {
		refs = append(refs, vs)
	}
	for _, p.ref = range refs {
		if err := compare(p, asJSON); err != nil {
			return err
		}
	}
	return nil
}

// vsVar is the environment variable with the path of a second emulator to compare with.
const vsVar = "SWTPM_BENCH_VS"

// compare measures both programs of p and prints the table.
func compare(p plan, asJSON bool) (err error) {
	if p.dir, err = os.MkdirTemp(p.dir, "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(p.dir)
	if err := os.Chmod(p.dir, 0o755); err != nil { // an ordinary user runs some
		return err
	}
	start := time.Now()
	b := &bench{plan: p, seeds: map[string]string{}}
	b.report.note("compared with %s", p.ref)
	b.refDir, b.oursDir = filepath.Dir(p.ref), filepath.Dir(p.ours)
	if b.ref, err = copied(p.ref, filepath.Join(p.dir, "ref")); err != nil {
		return err
	}
	if b.ours, err = copied(p.ours, filepath.Join(p.dir, "ours")); err != nil {
		return err
	}
	defer b.stopAll()
	b.report.note("file system of the states: %s", fileSystem(p.dir))
	b.report.note("a ratio is the median of the ratios within the rounds, so it may differ from the ratio of the two columns")
	for _, part := range []struct {
		name string
		f    func() error
	}{
		{"latency", b.latency}, {"start", b.start}, {"storm", b.storm}, {"setup", b.setup}, {"idle", b.idle}, {"memory", b.memory}, {"store", b.store}, {"ledger", b.ledger},
	} {
		if !p.wants(part.name) {
			continue
		}
		if err := part.f(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.report.note("this took %.0f s", time.Since(start).Seconds())
	if asJSON {
		return b.report.json(os.Stdout)
	}
	return b.report.table(os.Stdout)
}

// copied copies a program to a new directory and returns the path of the copy.
func copied(program, dir string) (string, error) {
	b, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "swtpm")
	return path, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(path, b, 0o755), sync(path))
}

// bench is one run.
type bench struct {
	plan
	report  report
	running []*server
	seeds   map[string]string // state directories that the reference made, by the options
	dirs    int               // directories made so far
}
