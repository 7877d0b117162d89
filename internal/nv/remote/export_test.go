package remote

import "time"

// SetPatience makes each request of b wait so long for the broker.
func (b *Backend) SetPatience(d time.Duration) {
	b.link.patience, b.link.client.Patience = d, d
}
