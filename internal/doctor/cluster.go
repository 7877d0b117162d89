package doctor

import (
	"errors"
	"io/fs"

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
	x.clusterFaults(l, where)
	_, err = l.Stat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.emptyState = true
		x.add(Note, where, "if a TPM should exist, run: swtpm_setup --tpm2 --tpmstate "+where+" --keyfile FILE", "no state; a new TPM %s will be created", x.cfg.TPM)
	case err != nil:
		x.add(Error, where, clusterAdvice(err), "%v", err)
	}
}

// problem returns the advice for a kind of fault that a broker finds in the store.
func problem(kind string) string {
	switch kind {
	case "unreachable":
		return "start etcd on that member, or check the network and the firewall"
	case "certificate":
		return "renew the certificate; the broker reads its own at the next connection"
	case "quorum":
		return "start the other members: a majority must run"
	case "quota":
		return storeQuota
	case "clock":
		return "synchronize the clocks (timedatectl): certificates depend on them, leases do not"
	case "denied":
		return "check [auth] and the certificate in /etc/swtpm/store.toml, and the role of that user in etcd; [[allow]] has no part in it"
	case "damaged":
		return "replace that member: etcdctl member remove, then member add with an empty data directory"
	case "split":
		return "in /etc/swtpm/store.toml, name the members of one etcd cluster in endpoints; etcdctl member list must print all of them"
	case "restored":
		return "first check endpoints and prefix in /etc/swtpm/store.toml; only if a backup was restored on purpose, run on each host: swtpm-store --accept-rollback"
	}
	return ""
}

// clusterFaults reports what the broker finds wrong with the store.
func (x *examination) clusterFaults(l *remote.Link, where string) {
	found, err := l.Examine()
	if err != nil {
		return // the next request returns the same error
	}
	for _, f := range found {
		level := Error
		if f.Warning {
			level = Warning
		}
		x.add(level, where, problem(f.Problem), "cluster store: %s: %s", f.Problem, f.Text)
	}
}

// clusterAdvice returns what to do about an error of the broker.
func clusterAdvice(err error) string {
	switch {
	case errors.Is(err, store.ErrDenied):
		return "add the TPM's user to [[allow]] in /etc/swtpm/store.toml"
	case errors.Is(err, store.ErrDamaged):
		return "run: swtpm-store --check"
	case errors.Is(err, store.ErrQuota):
		return storeQuota
	case isBusy(err):
		return storeBusy
	case errors.Is(err, store.ErrUnreachable):
		return "run: swtpm-store --check"
	}
	return "systemctl start swtpm-store.socket"
}
