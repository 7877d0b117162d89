package etcd

import (
	"testing"

	"github.com/swtpm-go/swtpm/internal/store/driver"
	"github.com/swtpm-go/swtpm/internal/store/driver/drivertest"
	"github.com/swtpm-go/swtpm/internal/store/etcd/etcdtest"
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
