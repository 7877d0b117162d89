package driver_test

import (
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness/drivertest"
)

// TestMemory checks that the driver in memory passes the tests of a driver.
func TestMemory(t *testing.T) {
	m := driver.NewMemory()
	drivertest.Test(t, "", func(*testing.T) driver.Driver { return m }, func(_ *testing.T, name, part string) { m.Damage(name, part) })
}
