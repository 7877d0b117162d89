package etcd

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness/drivertest"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// TestConformance checks that Debian's etcd passes the tests of a driver.
func TestConformance(t *testing.T) {
	m := etcdtest.Start(t)
	drivertest.Test(t, "t-", func(t *testing.T) driver.Driver {
		s, err := Open(Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}, func(t *testing.T, name, part string) {
		c, err := open(t, Options{Endpoints: []string{m.URL}}).client, error(nil)
		if missing, ok := strings.CutPrefix(part, "no "); ok {
			_, err = c.Delete(t.Context(), "/swtpm/"+name+"/"+missing)
		} else {
			_, err = c.Put(t.Context(), "/swtpm/"+name+"/"+part, "nonsense")
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestStrayGenerations checks that a key that does not name a generation hides no generation, that a
// generation that another program changed does not count as the newest, and that Verify warns of both
// although the state is good.
func TestStrayGenerations(t *testing.T) {
	s := open(t, Options{Endpoints: []string{etcdtest.Start(t).URL}, Prefix: "/swtpm"})
	id, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Acquire(t.Context(), "vm1", id, driver.Owner{Host: "a"})
	if err != nil {
		t.Fatal(err)
	}
	items := driver.Items{"permall": []byte("7")}
	if _, err := s.Write(t.Context(), "vm1", token, 0, driver.Change{Put: items, Snapshot: items, Head: driver.Head{Generation: 7, Sum: items.Sum()}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(t.Context(), "/swtpm/vm1/gen/00000000000000000003", ""); err != nil {
		t.Fatal(err)
	}
	if got := driver.Remedy(t.Context(), s, "vm1", []uint64{7, 3}, noItems); !strings.Contains(got, "--generation 7") {
		t.Errorf("Remedy = %q, want the newest generation that can be read", got)
	}
	if got := driver.Remedy(t.Context(), s, "vm1", []uint64{3}, noItems); !strings.Contains(got, "no stored generation of it can be read") {
		t.Errorf("Remedy = %q, want no generation", got)
	}
	if _, err := s.client.Put(t.Context(), "/swtpm/vm1/gen/00000000000000000007", "nonsense"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"x", "8", "a b"} {
		if _, err := s.client.Put(t.Context(), "/swtpm/vm1/gen/"+key, "9"); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := s.Generations(t.Context(), "vm1"); err != nil || !slices.Equal(all, []uint64{7, 3}) {
		t.Errorf("Generations = %v, %v, want 7 and then 3, which was stored later", all, err)
	}
	var texts []string
	found, err := driver.Verify(t.Context(), s, []string{"vm1"})
	for _, f := range found {
		if f.Problem != driver.Damaged || !f.Warning {
			t.Errorf("found %+v, want a warning", f)
		}
		texts = append(texts, f.Text)
	}
	text := strings.Join(texts, "\n")
	for _, want := range []string{"etcdctl del /swtpm/vm1/gen/x", "etcdctl del /swtpm/vm1/gen/8", "etcdctl del '/swtpm/vm1/gen/a b'", "gen/00000000000000000007\": an item of", "gen/00000000000000000003\": no item; generation 3 cannot be restored"} {
		if err != nil || len(found) != 5 || !strings.Contains(text, want) {
			t.Errorf("Verify = %v, %v, want 5 warnings with %q", found, err, want)
		}
	}
}

// noItems are the items of a state without any.
var noItems = slices.Values([]string(nil))

// TestHighNumbers checks that a generation or an epoch that counting cannot reach is damaged, and that
// the next acquisition stores an epoch that has not wrapped.
func TestHighNumbers(t *testing.T) {
	for _, h := range []driver.Head{{Generation: driver.MaxNumber + 1}, {Epoch: math.MaxUint64}} {
		_, err := decodeHead("k", encodeHead(h))
		if !errors.Is(err, driver.ErrDamaged) || !strings.Contains(err.Error(), "at most 4611686018427387904 is possible") {
			t.Errorf("decodeHead(%+v) = %v", h, err)
		}
	}
	highest := driver.Head{Generation: driver.MaxNumber, Epoch: driver.MaxNumber}
	if got, err := decodeHead("k", encodeHead(highest)); err != nil || got != highest {
		t.Errorf("decodeHead of the highest numbers = %+v, %v", got, err)
	}

	s := open(t, Options{Endpoints: []string{etcdtest.Start(t).URL}, Prefix: "/swtpm"})
	for key, value := range map[string]string{"epoch": "18446744073709551615", "gen/18446744073709551615": ""} {
		if _, err := s.client.Put(t.Context(), "/swtpm/vm1/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	found, err := driver.Verify(t.Context(), s, []string{"vm1"})
	text := fmt.Sprint(found)
	if err != nil || len(found) != 2 || !strings.Contains(text, "number 18446744073709551615, at most 4611686018427387904 is possible; the next start of the TPM replaces it") || !strings.Contains(text, "not the key of a generation") {
		t.Errorf("Verify = %+v, %v", found, err)
	}
	id, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(t.Context(), "vm1", id, driver.Owner{Host: "a"}); err != nil {
		t.Fatal(err)
	}
	now, err := s.Read(t.Context(), "vm1")
	if err != nil || now.Epoch < 2 || now.Epoch > 10 || now.EpochDamage != nil {
		t.Errorf("Read = %+v, %v, want the revision of the damaged epoch and 1", now, err)
	}
	if _, err := s.client.Delete(t.Context(), "/swtpm/vm1/epoch"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Acquire(t.Context(), "vm1", id, driver.Owner{Host: "b"})
	if owned, ok := errors.AsType[*driver.OwnedError](err); !ok || owned.Epoch != 0 || strings.Contains(err.Error(), "epoch") {
		t.Errorf("Acquire of an owned state without an epoch: %v", err)
	}
}

// TestListDamaged checks that a damaged value and a missing epoch are reported once, and that their
// states are listed. The next epoch of a state without one is above all earlier ones.
func TestListDamaged(t *testing.T) {
	m := etcdtest.Start(t)
	var reported []error
	s, err := Open(Options{Endpoints: []string{m.URL}, Prefix: "/swtpm", Damaged: func(err error) { reported = append(reported, err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for key, value := range map[string]string{
		"items/item/x": "x", "gens/gen/00000000000000000007": "", "other/x": "", "other": "", "/epoch": "1",
		"good/epoch": "3", "bad/epoch": "x", "head/epoch": "1", "head/head": "short", "owner/epoch": "1", "owner/owner": "{",
	} {
		if _, err := s.client.Put(t.Context(), "/swtpm/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		all, err := s.List(t.Context())
		if err != nil || len(all) != 6 || all[1].Name != "gens" || all[2].Name != "good" || all[2].Epoch != 3 || all[5].Owner.Unreadable() == nil || all[2].Owner != nil {
			t.Errorf("List = %+v, %v, want six states, and an unknown owner of the last one", all, err)
		}
	}
	if len(reported) != 5 {
		t.Errorf("reported %v, want 3 damaged values and 2 missing epochs", reported)
	}
	found, err := driver.Verify(t.Context(), s, []string{"gens", "items"})
	if err != nil || len(found) != 4 || found[0].Warning || !strings.Contains(found[0].Text, "state gens: ") || !found[3].Warning || !strings.Contains(found[3].Text, `key "/swtpm/items/epoch": missing; the next start`) {
		t.Errorf("Verify = %+v, %v, want two faults, and warnings of the generation and the epoch", found, err)
	}
	for _, err := range reported {
		if !errors.Is(err, driver.ErrDamaged) {
			t.Error(err)
		}
	}
}

// TestDecodeOwner checks that the strings of an owner are bounded.
func TestDecodeOwner(t *testing.T) {
	for _, x := range []struct {
		value string
		ok    bool
	}{
		{`{"host":"a","nonce":"n"}`, true},
		{`{"host":"` + strings.Repeat("a", maxOwnerString) + `"}`, true},
		{`{"host":"` + strings.Repeat("a", maxOwnerString+1) + `"}`, false},
		{`{"nonce":"` + strings.Repeat("a", maxOwnerString+1) + `"}`, false},
		{`{"x":"` + strings.Repeat("a", maxOwner) + `"}`, false},
		{`{"since":"yesterday"}`, false},
	} {
		if _, err := decodeOwner("k", []byte(x.value)); (err == nil) != x.ok {
			t.Errorf("decodeOwner of %d bytes: %v", len(x.value), err)
		}
	}
}

// TestOwned checks that the states of a lease are found among those of others, and that a list of
// more than one transaction is complete.
func TestOwned(t *testing.T) {
	s := open(t, Options{Endpoints: []string{etcdtest.Start(t).URL}, Prefix: "/swtpm"})
	var leases [2]driver.LeaseID
	for i := range leases {
		var err error
		if leases[i], err = s.Grant(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	const states = 2*listBatch + 3
	for i := range states {
		if _, err := s.Acquire(t.Context(), fmt.Sprintf("vm%03d", i), leases[i%2], driver.Owner{Host: "a", Nonce: fmt.Sprint(i % 2)}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != states || all[states-1].Name != "vm082" || all[0].Owner.Nonce != "0" {
		t.Errorf("List: %d states, %v, want %d", len(all), err, states)
	}
	names, err := s.Owned(t.Context(), leases[1])
	if err != nil || len(names) != states/2 {
		t.Errorf("Owned: %d states, %v, want %d", len(names), err, states/2)
	}
	some, err := s.Describe(t.Context(), []string{"vm082", "none", "vm001"})
	if err != nil || len(some) != 2 || some[0].Name != "vm082" || some[1].Name != "vm001" || some[1].Owner.Nonce != "1" {
		t.Errorf("Describe: %+v, %v", some, err)
	}
	if names, err := s.Owned(t.Context(), 12345); err != nil || len(names) != 0 {
		t.Errorf("Owned of an unknown lease: %v, %v", names, err)
	}
}

// BenchmarkWrite measures a fenced write of 6 KiB with its copy as a generation on one member with
// syncs, from 64 TPMs at once.
func BenchmarkWrite(b *testing.B) {
	m := etcdtest.Start(b, "--unsafe-no-fsync=false")
	s, err := Open(Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	lease, err := s.Grant(b.Context(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(p *testing.PB) {
		name := fmt.Sprintf("vm%d", next.Add(1))
		token, err := s.Acquire(b.Context(), name, lease, driver.Owner{Host: "a", Nonce: "n"})
		items, last, n := driver.Items{"tpm2-00.permall": make([]byte, 6<<10)}, driver.Revision(0), uint64(0)
		for err == nil && p.Next() {
			n++
			c := driver.Change{Put: items, Snapshot: items, Head: driver.Head{Generation: n}}
			if n > 8 {
				c.Expire = []uint64{n - 8}
			}
			last, err = s.Write(b.Context(), name, token, last, c)
		}
		if err != nil {
			b.Error(err)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}
