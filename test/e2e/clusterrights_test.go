package e2e_test

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestClusterRights checks that a TPM continues after a mistake in the rights of its broker.
// While etcd refuses the broker, or no [[allow]] gives the client its state, a change is refused
// so that the guest tries it later, and no refused change is stored.
func TestClusterRights(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	c := h.client()
	e := start(t, setup{tpm: v20, store: "store://vm1", socket: h.path("socket"), args: []string{"--key", "file=" + h.path("key")}})
	ch := e.power(t, v20)
	ch.define(t) // the number is 1
	ctx := t.Context()
	for n, x := range []struct {
		name, said  string
		harm, amend func() error
	}{
		{"auth enable", "user name is empty; etcd has authentication enabled", func() error { return enableAuth(t, c) }, func() error {
			root, err := clientv3.New(clientv3.Config{Endpoints: []string{h.member.URL}, Username: "root", Password: "root"})
			if err != nil {
				return err
			}
			defer root.Close()
			_, err = root.AuthDisable(ctx)
			return err
		}},
		{"another [[allow]]", "add the state to its table in store.toml, then systemctl restart swtpm-store", func() error { h.configure(h.member.URL, "other"); return nil },
			func() error { h.configure(h.member.URL, "*"); return nil }},
	} {
		before := uint64(n + 1)
		if err := x.harm(); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		for range 2 {
			if err := ch.bump(before + 1); err == nil || !strings.Contains(err.Error(), "0x922") {
				t.Fatalf("%s: an increment: %v, want TPM_RC_RETRY, %s", x.name, err, harness.Read(t, e.log))
			}
		}
		if n == 0 { // no user, then a wrong password
			h.run("!error: denied: ", "swtpm-store", "--config", h.path("store.toml"), "--check")
			h.write("password", "wrong")
			h.write("wrong.toml", harness.Read(t, h.path("store.toml"))+"[auth]\nuser = \"root\"\npassword-file = \""+h.path("password")+"\"\n")
			h.run("!error: denied: ", "swtpm-store", "--config", h.path("wrong.toml"), "--check")
		}
		if n := ch.number(t); n != before {
			t.Errorf("%s: the number is %d after refused increments, want %d", x.name, n, before)
		}
		if err := x.amend(); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		harness.Await(t, "the TPM goes on", func() bool { return ch.bump(0) == nil })
		if n := ch.number(t); n != before+1 {
			t.Errorf("%s: the number is %d, want %d", x.name, n, before+1)
		}
		if out := harness.Read(t, e.log); !strings.Contains(out, x.said) || strings.Contains(out, "not retried") {
			t.Errorf("%s: the log has no %q, or a change was not retried: %s", x.name, x.said, out)
		}
	}
}

// enableAuth enables the authentication of etcd, with the user root only.
func enableAuth(t *testing.T, c *clientv3.Client) error {
	ctx := t.Context()
	if _, err := c.UserAdd(ctx, "root", "root"); err != nil {
		return err
	}
	if _, err := c.UserGrantRole(ctx, "root", "root"); err != nil {
		return err
	}
	_, err := c.AuthEnable(ctx)
	return err
}
