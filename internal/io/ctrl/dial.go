package ctrl

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Connect connects to a socket of an emulator, of either channel: a path if network is
// "unix", which is never an abstract name, or HOST:PORT if it is "tcp". While the queue of
// the server is full, a Unix socket is tried again for up to wait. ctx limits
// the connecting alone. The error is the one of package net or of ctx.
func Connect(ctx context.Context, network, address string, wait time.Duration) (net.Conn, error) {
	if network == "unix" && strings.HasPrefix(address, "@") {
		address = "./" + address
	}
	deadline := time.Now().Add(wait)
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if err == nil || !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
