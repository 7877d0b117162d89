package store_test

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// clusterFault breaks members of the store while the TPMs of all worlds work. All of them go
// on afterwards.
type clusterFault struct {
	name string
	run  func(c *cluster, r *rand.Rand)
}

// clusterFaults are all faults of members.
var clusterFaults = []clusterFault{
	{"a member killed", func(c *cluster, r *rand.Rand) { c.kill(2*time.Second, c.members[r.IntN(3)]) }},
	{"the leader killed", func(c *cluster, _ *rand.Rand) { lead, _ := c.leader(); c.kill(2*time.Second, lead) }},
	{"the leader stopped", leaderStopped},
	{"the leader separated", func(c *cluster, _ *rand.Rand) { lead, _ := c.leader(); c.separate(4*time.Second, drop, lead) }},
	{"the leader does not hear", func(c *cluster, _ *rand.Rand) { lead, _ := c.leader(); c.separate(4*time.Second, deaf, lead) }},
	{"the leader is not heard", func(c *cluster, _ *rand.Rand) { lead, _ := c.leader(); c.separate(4*time.Second, mute, lead) }},
	{"no quorum for a moment", func(c *cluster, _ *rand.Rand) { _, rest := c.leader(); c.kill(time.Second, rest...) }},
	{"no quorum for longer than the TTL", func(c *cluster, _ *rand.Rand) { _, rest := c.leader(); c.kill(ttl+slack, rest...) }},
	{"all members separated", func(c *cluster, _ *rand.Rand) { c.separate(ttl+slack, cable, c.members...) }},
	{"all members killed", func(c *cluster, _ *rand.Rand) { c.kill(100*time.Millisecond, c.members...) }},
	{"the disk of a member is full", diskFull},
	{"the quota is exceeded", quotaExceeded},
}

// kill kills members and starts them again later.
func (c *cluster) kill(later time.Duration, members ...*member) {
	for _, m := range members {
		signal(m.Process, syscall.SIGKILL)
	}
	time.Sleep(later)
	for _, m := range members {
		<-m.Done
		m.start()
	}
}

// separate separates members from the network and from each other.
func (c *cluster) separate(long time.Duration, how cut, members ...*member) {
	for _, m := range members {
		how.off(m.node)
	}
	time.Sleep(long)
	for _, m := range members {
		how.heal(m.node)
	}
}

func leaderStopped(c *cluster, _ *rand.Rand) {
	lead, _ := c.leader()
	signal(lead.Process, syscall.SIGSTOP)
	time.Sleep(4 * time.Second)
	signal(lead.Process, syscall.SIGCONT)
}

// diskFull fills the disk of a member until it has ended, or for a while.
func diskFull(c *cluster, r *rand.Rand) {
	m := c.members[r.IntN(3)]
	m.sh(c.t, "fallocate -l $(df --output=avail -B1 /var/lib | tail -n1) /var/lib/full; cat /dev/zero >/var/lib/rest 2>/dev/null || true")
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && !m.Ended(); {
		time.Sleep(100 * time.Millisecond)
	}
	m.sh(c.t, "rm /var/lib/full /var/lib/rest")
	signal(m.Process, syscall.SIGKILL)
	<-m.Done
	m.start()
}

// quotaExceeded makes the store refuse writes.
func quotaExceeded(c *cluster, r *rand.Rand) {
	clearAlarm := c.alarm(c.members[r.IntN(3)])
	time.Sleep(3 * time.Second)
	clearAlarm()
}

// episode runs a fault of members while all worlds work, and checks each world.
func (f clusterFault) episode(c *cluster, worlds []*world, r *rand.Rand) (counts, error) {
	before := make([]*instance, len(worlds))
	for n, w := range worlds {
		before[n] = w.now()
		w.work()
	}
	time.Sleep(300 * time.Millisecond)
	f.run(c, r)
	c.healthy()
	var sum counts
	var failed error
	for n, w := range worlds {
		err := w.goesOn(before[n])
		part, checked := w.rest()
		sum.answered, sum.open = sum.answered+part.answered, sum.open+part.open
		for _, err := range []error{err, checked} {
			if err != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", w.state, err)
			}
		}
	}
	return sum, failed
}
