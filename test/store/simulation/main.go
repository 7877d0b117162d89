// Simulation computes what a fleet of TPMs asks of a cluster store in a day: leases, requests,
// writes, and the size of the database. The same options and seed give the same numbers.
// docs/store.md uses it for a plan.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
)

// fleet is the load. All rates are those of one TPM.
type fleet struct {
	Hosts, TPMs    int
	Seed           uint64
	TTL            int     // seconds; a broker renews its lease three times in it
	Item           int     // bytes of a permanent state, encrypted
	Generations    int     // that are stored of each
	BootsPerDay    float64 // each with an acquisition and a release
	WritesPerBoot  int     // in the minute after it
	WritesPerHour  float64 // while the guest runs
	StormShare     float64 // of the TPMs that boot within StormSeconds at eight o'clock
	StormSeconds   int
	Compaction     int // seconds of history that etcd keeps
	FailedHostHour int // hour at which a host dies; its TPMs start elsewhere within ten seconds
}

// day is what a simulated day asks of the store.
type day struct {
	Leases                      int
	Requests, Writes            int // of the whole day
	PeakRequests, PeakWrites    int // of a second
	StormWrites, FailoverWrites int // of the busiest second of these times
	Live, History               int64
}

const (
	seconds = 24 * 3600
	eight   = 8 * 3600

	// requestsPerBoot counts the requests of an acquisition, the loads and a release.
	requestsPerBoot = 9

	// keyOverhead is the size of a key with its entry in the index and on a page.
	keyOverhead = 200
	headSize    = 81
)

// bytesPerWrite is what a write adds to the history: the item, its copy as a generation, the head.
func (f fleet) bytesPerWrite() int64 { return int64(2*(f.Item+keyOverhead) + headSize + keyOverhead) }

// simulate runs a day, second by second.
func simulate(f fleet) day {
	random := rand.New(rand.NewPCG(f.Seed, 1))
	writes, requests := make([]int, seconds), make([]int, seconds)
	boot := func(at int) {
		for range requestsPerBoot {
			requests[min(at+random.IntN(3), seconds-1)]++
		}
		for range f.WritesPerBoot {
			writes[min(at+3+random.IntN(60), seconds-1)]++
		}
	}
	for range int(float64(f.TPMs) * f.BootsPerDay) {
		boot(random.IntN(seconds))
	}
	for range int(float64(f.TPMs) * f.StormShare) {
		boot(eight + random.IntN(f.StormSeconds))
	}
	for range int(float64(f.TPMs) * f.WritesPerHour * 24) {
		writes[random.IntN(seconds)]++
	}
	failed := f.FailedHostHour * 3600
	for range f.TPMs / f.Hosts {
		boot(failed + f.TTL + random.IntN(10))
	}
	renewals := 2 * f.Hosts * 3 // each a renewal and a look at the revision, in TTL seconds
	d := day{Leases: f.Hosts, Live: int64(f.TPMs) * (int64(1+f.Generations)*int64(f.Item+keyOverhead) + 3*keyOverhead + headSize)}
	window, most := 0, 0
	for s := range seconds {
		n := renewals * (s + 1) / f.TTL * 1
		n -= renewals * s / f.TTL
		all := n + requests[s] + writes[s]
		d.Requests, d.Writes = d.Requests+all, d.Writes+writes[s]
		d.PeakRequests, d.PeakWrites = max(d.PeakRequests, all), max(d.PeakWrites, writes[s])
		if s >= eight && s < eight+f.StormSeconds+63 {
			d.StormWrites = max(d.StormWrites, writes[s])
		}
		if s >= failed && s < failed+f.TTL+73 {
			d.FailoverWrites = max(d.FailoverWrites, writes[s])
		}
		if window += writes[s]; s >= f.Compaction {
			window -= writes[s-f.Compaction]
		}
		most = max(most, window)
	}
	d.History = int64(most) * f.bytesPerWrite()
	return d
}

// plan is the fleet of docs/store.md.
var plan = fleet{
	Hosts: 100, TPMs: 50000, Seed: 1, TTL: 15, Item: 6 << 10, Generations: 8, BootsPerDay: 1, WritesPerBoot: 12, WritesPerHour: 2,
	StormShare: 0.2, StormSeconds: 600, Compaction: 300, FailedHostHour: 12,
}

func main() {
	f := plan
	flag.IntVar(&f.Hosts, "hosts", f.Hosts, "hosts")
	flag.IntVar(&f.TPMs, "tpms", f.TPMs, "TPMs")
	flag.Uint64Var(&f.Seed, "seed", f.Seed, "seed of the random numbers")
	flag.IntVar(&f.TTL, "ttl", f.TTL, "time to live of a lease in seconds")
	flag.IntVar(&f.Item, "item", f.Item, "bytes of a permanent state")
	flag.IntVar(&f.Generations, "generations", f.Generations, "stored generations")
	flag.Float64Var(&f.BootsPerDay, "boots", f.BootsPerDay, "boots of a TPM in a day")
	flag.IntVar(&f.WritesPerBoot, "boot-writes", f.WritesPerBoot, "writes of a boot")
	flag.Float64Var(&f.WritesPerHour, "writes", f.WritesPerHour, "writes of a running TPM in an hour")
	flag.Float64Var(&f.StormShare, "storm", f.StormShare, "share of the TPMs that boot at eight o'clock")
	flag.IntVar(&f.Compaction, "compaction", f.Compaction, "seconds of history that etcd keeps")
	flag.Parse()
	d := simulate(f)
	fmt.Printf("leases:                      %d\n", d.Leases)
	fmt.Printf("requests per second:         %.1f on average, %d at most\n", float64(d.Requests)/seconds, d.PeakRequests)
	fmt.Printf("writes per second:           %.1f on average, %d at most\n", float64(d.Writes)/seconds, d.PeakWrites)
	fmt.Printf("  in the morning:            %d at most\n", d.StormWrites)
	fmt.Printf("  after a host died:         %d at most\n", d.FailoverWrites)
	fmt.Printf("database, MiB:               %d live, %d history, %d together\n", d.Live>>20, d.History>>20, (d.Live+d.History)>>20)
}
