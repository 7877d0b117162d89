package doctor

import (
	"errors"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
	"github.com/swtpm-go/swtpm/internal/store"
)

// cluster checks a state in a cluster store: the broker of this host, the store, the owner.
func (x *examination) cluster(name string) {
	where := x.cfg.State.Location.String()
	if x.cfg.Key.Source == config.NoKey && !x.cfg.State.Plain {
		x.add(Error, where, "add [key], or set [tpmstate] allow-plain = true", "the state would be stored unencrypted")
	}
	l, err := remote.Dial(name)
	if err != nil {
		x.add(Error, where, clusterAdvice(err), "%v", err)
		return
	}
	defer l.Close()
	e, err := l.Stat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.emptyState = true
		x.add(Note, where, "if a TPM should exist, run: swtpm_setup --tpmstate "+where, "no state; a new TPM %s will be created", x.cfg.TPM)
	case err != nil:
		x.add(Error, where, clusterAdvice(err), "%v", err)
	case e.Owner != "":
		x.add(Warning, where, "stop the TPM there; after a failure of that host wait until its lease expires", "owned by host %q since %s, epoch %d", e.Owner, time.Unix(int64(e.Since), 0).UTC().Format(time.RFC3339), e.Epoch)
	}
}

// clusterAdvice returns what to do about an error of the broker.
func clusterAdvice(err error) string {
	switch {
	case errors.Is(err, store.ErrDenied):
		return "add the TPM's user to [[allow]] in /etc/swtpm/store.toml"
	case errors.Is(err, store.ErrQuota):
		return StoreQuota
	case errors.Is(err, store.ErrUnreachable):
		return "run: swtpm-store --check"
	}
	return "systemctl start swtpm-store.socket"
}
