package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/swtpm-go/swtpm/test/store/lab"
)

// clusterFault breaks members of the store while the TPMs of all worlds work. All of them go
// on afterwards.
type clusterFault struct {
	name string
	run  func(c *lab.Cluster, r *rand.Rand)
	die  bool // the hosts of all TPMs die shortly before; other hosts must get the states
}

// clusterFaults are all faults of members.
var clusterFaults = []clusterFault{
	{"a member killed", func(c *lab.Cluster, r *rand.Rand) { kill(2*time.Second, c.Members[r.IntN(3)]) }, false},
	{"the leader killed", func(c *lab.Cluster, _ *rand.Rand) { lead, _ := c.Leader(); kill(2*time.Second, lead) }, false},
	{"the leader stopped", leaderStopped, false},
	{"the leader separated", func(c *lab.Cluster, _ *rand.Rand) { lead, _ := c.Leader(); separate(4*time.Second, lab.Drop, lead) }, false},
	{"the leader does not hear", func(c *lab.Cluster, _ *rand.Rand) { lead, _ := c.Leader(); separate(4*time.Second, lab.Deaf, lead) }, false},
	{"the leader is not heard", func(c *lab.Cluster, _ *rand.Rand) { lead, _ := c.Leader(); separate(4*time.Second, lab.Mute, lead) }, false},
	{"no quorum for a moment", func(c *lab.Cluster, _ *rand.Rand) { _, rest := c.Leader(); kill(time.Second, rest...) }, false},
	{"no quorum for longer than the TTL", func(c *lab.Cluster, _ *rand.Rand) { _, rest := c.Leader(); kill(ttl+slack, rest...) }, false},
	{"all members separated", func(c *lab.Cluster, _ *rand.Rand) { separate(ttl+slack, lab.Cable, c.Members...) }, false},
	{"all members killed", func(c *lab.Cluster, _ *rand.Rand) { kill(100*time.Millisecond, c.Members...) }, false},
	{"the disk of a member is full", diskFull, false},
	{"the quota is exceeded", quotaExceeded, false},
	{"the clocks of the members step", memberClocks, false},
	{"hosts die, the clocks of the members step, and the leader is killed", memberClocksAndElection, true},
	{"hosts die, and the leader", func(c *lab.Cluster, r *rand.Rand) { lead, _ := c.Leader(); soon(r); kill(2*time.Second, lead) }, true},
	{"hosts die, and the leader is stopped", func(c *lab.Cluster, r *rand.Rand) { soon(r); leaderStopped(c, r) }, true},
	{"hosts die, and a member is separated", func(c *lab.Cluster, r *rand.Rand) { soon(r); separate(4*time.Second, lab.Drop, c.Members[r.IntN(3)]) }, true},
}

// soon waits for a moment in the time to live of a lease.
func soon(r *rand.Rand) { time.Sleep(time.Duration(r.Int64N(int64(ttl)))) }

// kill kills members and starts them again later.
func kill(later time.Duration, members ...*lab.Member) {
	for _, m := range members {
		lab.Signal(m.Process, syscall.SIGKILL)
	}
	time.Sleep(later)
	for _, m := range members {
		<-m.Done
		m.Start()
	}
}

// separate separates members from the network and from each other.
func separate(long time.Duration, how lab.Cut, members ...*lab.Member) {
	for _, m := range members {
		how.Off(m.Node)
	}
	time.Sleep(long)
	for _, m := range members {
		how.Heal(m.Node)
	}
}

func leaderStopped(c *lab.Cluster, _ *rand.Rand) {
	lead, _ := c.Leader()
	lab.Freeze(lead.Process)
	time.Sleep(4 * time.Second)
	lab.Signal(lead.Process, syscall.SIGCONT)
}

// diskFull fills the disk of a member until it has ended, or for a while.
func diskFull(c *lab.Cluster, r *rand.Rand) {
	m := c.Members[r.IntN(3)]
	// The member writes meanwhile, so fallocate may already find too little.
	m.Sh("fallocate -l $(df --output=avail -B1 /var/lib | tail -n1) /var/lib/full || true; cat /dev/zero >/var/lib/rest || true")
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && !m.Ended(); {
		time.Sleep(100 * time.Millisecond)
	}
	m.Sh("rm -f /var/lib/full /var/lib/rest")
	lab.Signal(m.Process, syscall.SIGKILL)
	<-m.Done
	m.Start()
}

// quotaExceeded makes the store refuse writes.
func quotaExceeded(c *lab.Cluster, r *rand.Rand) {
	clearAlarm := c.Alarm(c.Members[r.IntN(3)])
	time.Sleep(3 * time.Second)
	clearAlarm()
}

// episode runs a fault of members while all worlds work, and checks each world.
func (f clusterFault) episode(c *lab.Cluster, worlds []*world, r *rand.Rand) (counts, []taken, error) {
	before := make([]*lab.Instance, len(worlds))
	for n, w := range worlds {
		before[n] = w.now()
		w.work()
	}
	time.Sleep(300 * time.Millisecond)
	var took []taken
	var failed error
	if f.die {
		took, failed = f.failovers(c, worlds, r)
	} else {
		f.run(c, r)
	}
	c.Healthy()
	var sum counts
	for n, w := range worlds {
		var err error
		if !f.die {
			err = w.goesOn(before[n])
		}
		part, checked := w.rest()
		sum.answered, sum.open = sum.answered+part.answered, sum.open+part.open
		for _, err := range []error{err, checked} {
			if err != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", w.state, err)
			}
		}
	}
	return sum, took, failed
}

// failovers runs the fault while the hosts of all TPMs die.
func (f clusterFault) failovers(c *lab.Cluster, worlds []*world, r *rand.Rand) ([]taken, error) {
	took, failed := make([]taken, len(worlds)), make([]error, len(worlds))
	var all sync.WaitGroup
	for n, w := range worlds {
		all.Go(func() { took[n], failed[n] = hostDies(w) })
	}
	f.run(c, r)
	all.Wait()
	return took, errors.Join(failed...)
}
