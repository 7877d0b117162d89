package main

import "testing"

// TestPlan checks that the same seed gives the same day, that nothing of the load is lost, and that
// the plan of docs/store.md stays below the limits that it states.
func TestPlan(t *testing.T) {
	d := simulate(plan)
	if again := simulate(plan); again != d {
		t.Errorf("two runs differ: %+v, %+v", d, again)
	}
	boots := int(float64(plan.TPMs)*(plan.BootsPerDay+plan.StormShare)) + plan.TPMs/plan.Hosts
	if want := boots*plan.WritesPerBoot + int(float64(plan.TPMs)*plan.WritesPerHour*24); d.Writes != want {
		t.Errorf("%d writes, want %d", d.Writes, want)
	}
	if want := d.Writes + boots*requestsPerBoot + 2*3*plan.Hosts*seconds/plan.TTL; d.Requests != want {
		t.Errorf("%d requests, want %d", d.Requests, want)
	}
	if d.Leases != 100 || d.PeakWrites > 400 || (d.Live+d.History)>>30 >= 4 {
		t.Errorf("%+v: more than docs/store.md says", d)
	}
}

// TestGrowth checks that the database grows with the states and the generations, and the leases with
// the hosts only.
func TestGrowth(t *testing.T) {
	base := simulate(plan)
	large, few := plan, plan
	large.Item *= 4
	few.Generations = 2
	if l := simulate(large); l.Live < 3*base.Live || l.Leases != base.Leases || l.Writes != base.Writes {
		t.Errorf("larger states: %+v", l)
	}
	if s := simulate(few); s.Live > base.Live/2 || s.Writes != base.Writes {
		t.Errorf("fewer generations: %+v", s)
	}
}
