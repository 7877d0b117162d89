package remote

import "time"

// SetTimeout sets how long each request of b waits for the broker.
func (b *Backend) SetTimeout(d time.Duration) {
	b.link.timeout, b.link.client.Timeout = d, d
}
