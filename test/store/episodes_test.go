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
// died, or if the usual failover took longer than it may.
func (r *results) report(t *testing.T) {
	t.Helper()
	var b strings.Builder
	var all []taken
	for _, name := range slices.Sorted(maps.Keys(r.runs)) {
		fmt.Fprintf(&b, "\n%4d %s", r.runs[name], name)
		if took := r.failovers[name]; len(took) > 0 {
			longest := slices.MaxFunc(took, byWhole)
			fmt.Fprintf(&b, ": failover at most %v, of which the lease %v", round(longest.whole), round(longest.freed))
			all = append(all, took...)
		}
	}
	t.Logf("%d commands answered, %d increments without a success%s", r.counts.answered, r.counts.open, b.String())
	if len(all) == 0 {
		return
	}
	slices.SortFunc(all, byWhole)
	late, lease, elections := 0, 0, 0
	var longest time.Duration
	for _, took := range all {
		longest = max(longest, took.freed)
		if took.whole > took.allowed() {
			late++
		}
		if took.freed > took.allowed() {
			lease++
		}
		if took.elected {
			elections++
		}
	}
	t.Logf("%d failovers with a TTL of %v: median %v, longest %v, longest lease %v, %d count from an election; %d took longer than they may",
		len(all), ttl, round(all[len(all)/2].whole), round(all[len(all)-1].whole), round(longest), elections, late)
	if late > len(all)/10 {
		t.Errorf("%d of %d failovers took longer than %v, or %v longer than that after an election", late, len(all), ttl+slack, lab.Election)
	}
	if lease > 0 {
		t.Errorf("%d leases lasted longer than that", lease)
	}
}

// allowed is how long it may take.
func (t taken) allowed() time.Duration {
	if t.elected {
		return ttl + slack + lab.Election
	}
	return ttl + slack
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
		w.next = shuffled(w.rand, chosen(slices.Concat(hostFaults, clockFaults), func(f fault) string { return f.name }))
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
