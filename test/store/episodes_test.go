package store_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/store/lab"
)

// results are what all episodes found, by the name of the fault.
type results struct {
	mu        sync.Mutex
	runs      map[string]int
	failovers map[string][]taken
	counts    counts
}

func (r *results) add(name string, c counts, failovers ...taken) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs[name]++
	r.counts.answered, r.counts.open = r.counts.answered+c.answered, r.counts.open+c.open
	for _, took := range failovers {
		if took.whole > 0 {
			r.failovers[name] = append(r.failovers[name], took)
		}
	}
}

// report logs a table. It fails the test if a lease lasted longer than it may after its host
// died, or if the usual failover or start took longer than it may.
func (r *results) report(t *testing.T) {
	t.Helper()
	var b strings.Builder
	var all []taken // failovers
	late, moves, lease, elections := 0, 0, 0, 0
	var longest time.Duration
	for _, name := range slices.Sorted(maps.Keys(r.runs)) {
		fmt.Fprintf(&b, "\n%4d %s", r.runs[name], name)
		took := r.failovers[name]
		if len(took) == 0 {
			continue
		}
		slowest := slices.MaxFunc(took, byWhole)
		fmt.Fprintf(&b, ": at most %v, of which the lease %v", round(slowest.whole), round(max(slowest.freed, 0)))
		for _, one := range took {
			moves++
			if one.whole > one.allowed()+one.start {
				late++
			}
			if one.soon {
				continue
			}
			all = append(all, one)
			longest = max(longest, one.freed)
			if one.freed > one.allowed() {
				lease++
			}
			if one.elected {
				elections++
			}
		}
	}
	t.Logf("%d commands answered, %d increments without a success%s", r.counts.answered, r.counts.open, b.String())
	if len(r.runs) == 0 {
		t.Error("no fault was run")
	}
	if len(all) > 0 {
		slices.SortFunc(all, byWhole)
		t.Logf("%d failovers with a TTL of %v: median %v, longest %v, longest lease %v, %d count from an election",
			len(all), ttl, round(all[len(all)/2].whole), round(all[len(all)-1].whole), round(longest), elections)
	}
	t.Logf("%d of %d failovers and starts took longer than they may", late, moves)
	if late > moves/10 {
		t.Errorf("that is more than a tenth; allowed are %v after a fault, %v after a release, and %v more after an election", ttl+slack, ttl-margin, lab.Election)
	}
	if lease > 0 {
		t.Errorf("%d leases lasted longer than %v, or %v more after an election", lease, ttl+slack, lab.Election)
	}
}

// allowed is how long it may take.
func (t taken) allowed() time.Duration {
	limit := ttl + slack + t.busy
	if t.soon {
		limit = ttl - margin + t.busy
	}
	if t.elected {
		limit += lab.Election
	}
	return limit
}

func byWhole(a, b taken) int { return cmp.Compare(a.whole, b.whole) }

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// number returns a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// chosen returns the faults whose name has the text SWTPM_STORE_FAULT.
func chosen[T any](all []T, name func(T) string) (some []T) {
	for _, f := range all {
		if strings.Contains(name(f), os.Getenv("SWTPM_STORE_FAULT")) {
			some = append(some, f)
		}
	}
	return some
}

func chosenHostFaults() []fault {
	return chosen(slices.Concat(hostFaults, clockFaults), func(f fault) string { return f.name })
}

// TestEpisodes runs SWTPM_STORE_EPISODES faults: of five, four break one of the three hosts
// of a TPM, for several TPMs at the same time, and one breaks the store for all.
// SWTPM_STORE_FAULT=clock runs only the faults with this word in their names.
func TestEpisodes(t *testing.T) {
	count := number(t, "SWTPM_STORE_EPISODES", 0)
	if count == 0 {
		t.Skip("SWTPM_STORE_EPISODES is not set; see make store")
	}
	seed := uint64(number(t, "SWTPM_STORE_SEED", int(time.Now().UnixNano()%1e9)))
	t.Logf("SWTPM_STORE_SEED=%d", seed)
	c := lab.NewCluster(t, 3)
	o := c.Observe(t, "/swtpm/")
	var worlds []*world
	for n := range 8 {
		worlds = append(worlds, newWorld(t, c, o, n, seed))
	}
	r := &results{runs: map[string]int{}, failovers: map[string][]taken{}}
	rounds := max(1, count/50) // hosts and members take turns
	done, order := 0, rand.New(rand.NewPCG(seed, 1000))
	members := shuffled(order, chosen(clusterFaults, func(f clusterFault) string { return f.name }))
	for round := range rounds {
		hosts := count * 4 / 5 / rounds
		switch {
		case len(chosenHostFaults()) == 0:
			hosts = 0
		case len(members) == 0:
			hosts = count / rounds
		}
		runWorlds(t, worlds, hosts, r)
		for range count/rounds - hosts {
			f := members[done%len(members)]
			done++
			sum, took, err := f.episode(c, worlds, order)
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			r.add(f.name, sum, took...)
			t.Logf("all: %s: %d commands answered, %d increments without a success", f.name, sum.answered, sum.open)
		}
		if t.Failed() {
			t.Fatalf("round %d failed", round)
		}
	}
	r.report(t)
}

// runWorlds runs count faults of hosts, in all worlds at the same time.
func runWorlds(t *testing.T, worlds []*world, count int, r *results) {
	t.Helper()
	left := make(chan struct{}, count)
	for range count {
		left <- struct{}{}
	}
	close(left)
	var all sync.WaitGroup
	for _, w := range worlds {
		all.Go(func() {
			for range left {
				if !w.episode(r) {
					return
				}
			}
		})
	}
	all.Wait()
}

// episode runs the world's next fault and checks the history.
func (w *world) episode(r *results) bool {
	if len(w.next) == 0 {
		w.next = shuffled(w.rand, chosenHostFaults())
	}
	f := w.next[0]
	w.next = w.next[1:]
	w.work()
	time.Sleep(300 * time.Millisecond)
	took, err := f.run(w)
	if err == nil {
		time.Sleep(300 * time.Millisecond)
	}
	c, checked := w.rest()
	if err != nil || checked != nil {
		w.t.Errorf("%s: %s: %v; %v", w.state, f.name, err, checked)
		return false
	}
	r.add(f.name, c, took)
	w.t.Logf("%s: %s: %d commands answered, %d increments without a success, failover %v", w.state, f.name, c.answered, c.open, round(took.whole))
	return true
}

func shuffled[T any](r *rand.Rand, all []T) []T {
	all = slices.Clone(all)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}
