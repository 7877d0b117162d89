package etcd

import (
	"errors"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness/drivertest"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// A member of Debian's etcd keeps the promises of a driver.
func TestConformance(t *testing.T) {
	m := etcdtest.Start(t)
	drivertest.Test(t, "t-", func(t *testing.T) driver.Driver {
		s, err := Open(Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

// A damaged value is skipped and reported once; the other states are listed.
func TestListDamaged(t *testing.T) {
	m := etcdtest.Start(t)
	var reported []error
	s, err := Open(Options{Endpoints: []string{m.URL}, Prefix: "/swtpm", Damaged: func(err error) { reported = append(reported, err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for key, value := range map[string]string{
		"good/epoch": "3", "bad/epoch": "x", "head/epoch": "1", "head/head": "short", "owner/epoch": "1", "owner/owner": "{",
	} {
		if _, err := s.client.Put(t.Context(), "/swtpm/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].Name != "good" || all[0].Epoch != 3 {
			t.Errorf("List = %+v, %v, want the state good only", all, err)
		}
	}
	if len(reported) != 3 {
		t.Errorf("reported %v, want 3 damaged values", reported)
	}
	for _, err := range reported {
		if !errors.Is(err, driver.ErrDamaged) {
			t.Error(err)
		}
	}
}

// The strings of an owner are bounded.
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
