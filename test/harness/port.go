package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

// The ports of tests are in this range, without those that the kernel gives to connections.
const firstPort, lastPort = 10000, 65000

// FreePort returns a free TCP port of the loopback interface for the time of the test. The next
// port is free too, because tpm2-tools expect the control channel there.
func FreePort(t testing.TB) int {
	t.Helper()
	port, release, err := ReservePort(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// ReservePort returns the first of n free TCP ports in a row. No connection gets one of them as its
// own port, and no other call returns one, also in another process, before release is called.
func ReservePort(n int) (port int, release func(), err error) {
	low, high := 32768, 60999
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(b), &low, &high)
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort-n)
		if port <= high && port+n > low {
			continue
		}
		if release, ok := reserve(port, n); ok {
			return port, release, nil
		}
	}
	return 0, nil, errors.New("no free ports")
}

// reserve reserves n ports if all of them are free. An abstract Unix socket with the number of a port
// is the reservation: the kernel removes it with its process, and it is in the same network
// namespace as the port.
func reserve(port, n int) (release func(), ok bool) {
	var held []net.Listener
	release = func() {
		for _, l := range held {
			_ = l.Close()
		}
	}
	for i := port; i < port+n; i++ {
		l, err := net.Listen("unix", fmt.Sprintf("@swtpm-test-port-%d", i))
		if err != nil {
			release()
			return nil, false
		}
		held = append(held, l)
		tcp, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", i))
		if err != nil {
			release()
			return nil, false
		}
		_ = tcp.Close()
	}
	return release, true
}
