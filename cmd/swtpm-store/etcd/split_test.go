package etcd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// TestSplit checks that endpoints of two stores are found and refused, whether etcd gave the stores
// different IDs or the same, and that other endpoints are not.
func TestSplit(t *testing.T) {
	const peer = "http://127.0.0.1:1" // no other member uses it, so that two servers with it are alike
	alike := []string{"--initial-advertise-peer-urls=" + peer, "--initial-cluster=one=" + peer}
	one, same, other := etcdtest.Start(t, alike...), etcdtest.Start(t, alike...), etcdtest.Start(t)
	three := etcdtest.StartThree(t)
	for _, x := range []struct {
		name  string
		urls  []string
		split bool
	}{
		{"one", []string{one.URL}, false},
		{"one under two names", []string{one.URL, strings.Replace(one.URL, "127.0.0.1", "localhost", 1)}, false},
		{"three members", []string{three[0].URL, three[1].URL, three[2].URL}, false},
		{"a member that does not answer", []string{one.URL, "http://127.0.0.1:1"}, false},
		{"different IDs", []string{one.URL, other.URL}, true},
		{"the same IDs", []string{one.URL, same.URL}, true},
		{"the same IDs and one that does not answer", []string{one.URL, "http://127.0.0.1:1", same.URL}, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := open(t, Options{Endpoints: x.urls, Prefix: "/swtpm"})
			if found := s.Examine(t.Context()); has(found, driver.Split, "not members of one store") != x.split {
				t.Errorf("found %+v", found)
			}
			_, err := s.Grant(t.Context(), time.Minute)
			for x.split && err == nil && s.times.split < time.Minute { // on a busy machine the members are late, too
				s.times.split *= 2
				_, err = s.Grant(t.Context(), time.Minute)
			}
			if x.split != errors.Is(err, driver.ErrSplit) || !x.split && err != nil {
				t.Errorf("Grant: %v", err)
			}
		})
	}
}
