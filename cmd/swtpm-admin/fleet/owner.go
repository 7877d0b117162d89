package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
	"github.com/swtpm-go/swtpm/internal/store"
)

// storeOwner is the information of a cluster store about a state.
type storeOwner struct {
	Exists bool       `json:"exists"`          // the store has the state
	Host   string     `json:"host,omitempty"`  // "" if no host owns it
	Here   bool       `json:"here"`            // it is this host
	Since  *time.Time `json:"since,omitempty"` // of the acquisition, from the owner's clock
	Epoch  uint64     `json:"epoch,omitempty"` // number of acquisitions
}

// owners asks the cluster store over one connection about all TPMs whose states it has.
func (s *snapshot) owners(ctx context.Context, tpms []TPM) error {
	var names []string
	for i := range tpms {
		if name, ok := tpms[i].inStore(); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 || s.Describe == nil {
		return nil
	}
	slices.Sort(names)
	type answer struct {
		host string
		all  []store.Entry
	}
	a, err := within(ctx, func(ctx context.Context) (a answer, err error) {
		a.host, a.all, err = s.Describe(ctx, slices.Compact(names))
		return a, err
	})
	if err != nil {
		return err
	}
	byName := map[string]store.Entry{}
	for _, e := range a.all {
		byName[e.Name] = e
	}
	for i := range tpms {
		name, ok := tpms[i].inStore()
		if !ok {
			continue
		}
		e, exists := byName[name]
		tpms[i].own(e, exists, a.host)
	}
	return nil
}

// inStore returns the name of the state in the cluster store.
func (t *TPM) inStore() (name string, ok bool) {
	if t.cfg == nil || t.cfg.State.Location.Kind != nv.Cluster {
		return "", false
	}
	return t.cfg.State.Location.Path, true
}

// own sets the owner of a TPM from e, the reply of the broker of this host.
func (t *TPM) own(e store.Entry, exists bool, host string) {
	t.Owner = &storeOwner{Exists: exists, Host: e.Owner, Here: exists && e.Owner == host, Epoch: e.Epoch}
	if !exists {
		return
	}
	t.Generation = &e.Generation
	if e.Owner != "" {
		since := time.Unix(int64(e.Since), 0).UTC()
		t.Owner.Since = &since
	}
}

// ownerCell returns the owner for the table.
func (t *TPM) ownerCell() string {
	switch {
	case t.Owner == nil:
		return ""
	case t.Owner.Here:
		return "here"
	case t.Owner.Host == "":
		return "none"
	}
	return t.Owner.Host
}

// ownerNote returns what needs attention about the owner.
func (t *TPM) ownerNote() string {
	switch o := t.Owner; {
	case o == nil || t.State == stateUnproved:
	case o.Host != "" && !o.Here && t.hasStarted():
		return fmt.Sprintf("host %s has taken the state over%s", o.Host, store.EpochText(o.Epoch))
	case o.Host != "" && !o.Here && !strings.Contains(t.Verdict, o.Host):
		return fmt.Sprintf("owned by host %s since %s%s", o.Host, o.Since.Format(time.RFC3339), store.EpochText(o.Epoch))
	case !o.Exists && t.hasStarted():
		return "the cluster store does not have the state"
	}
	return ""
}

// describe asks the broker of this host.
func describe(ctx context.Context, states []string) (host string, all []store.Entry, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", remote.SocketPath())
	if err != nil {
		return "", nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	c, _, err := store.NewClient(conn, "")
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = c.Close() }()
	host, all, err = c.Describe(states)
	if errors.Is(err, store.ErrInvalid) {
		err = fmt.Errorf("%w; restart swtpm-store, which is older than this program", err)
	}
	return host, all, err
}
