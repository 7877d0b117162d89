package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// newTPM starts a TPM with a counter on a new host, and returns the counter.
func newTPM(t *testing.T, h *lab.Host, state string) (*lab.Instance, uint64) {
	t.Helper()
	i, err := h.Acquire(state, harness.EventTimeout)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := persist(i, func(tpm transport.TPM) (uint64, error) { return 0, define(tpm) }); err != nil {
		t.Fatal(err)
	}
	n, err := persist(i, read)
	if err != nil {
		t.Fatal(err)
	}
	return i, n
}

// stop ends a TPM in order.
func stop(t *testing.T, i *lab.Instance) {
	t.Helper()
	_ = i.Cmd.Process.Signal(os.Interrupt)
	if code := i.Wait(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, i.Out.String())
	}
}

// refused starts a TPM, which must not answer, and returns what it says. It tries again if the store of a
// busy machine has not answered in time.
func refused(t *testing.T, h *lab.Host, state string) (said string) {
	t.Helper()
	_ = harness.Until(func() bool {
		i := h.Launch(state)
		if i.Answers() {
			t.Error("the TPM starts")
			_ = i.Cmd.Process.Kill()
		}
		if i.Wait(t) == 0 {
			t.Errorf("exit code 0 of a TPM that does not start: %s", i.Out.String())
		}
		said = i.Out.String()
		return t.Failed() || !strings.Contains(said, "cannot be reached") || strings.Contains(said, "denied")
	})
	return said
}

// TestDump checks that the database and the log of a member have no plaintext of a state, and
// that the search finds one where it is.
func TestDump(t *testing.T) {
	c := lab.NewCluster(t, 1)
	h := c.NewHost(t, bin, "host", "")
	for _, plain := range []bool{false, true} {
		if plain {
			h.Plain = true
		}
		i, _ := newTPM(t, h, fmt.Sprintf("vm-%t", plain))
		for range 5 {
			if _, err := persist(i, increment); err != nil {
				t.Fatal(err)
			}
		}
		stop(t, i)
		c.Members[0].Sh("grep -raqF vm-" + fmt.Sprint(plain) + "/head /var/lib/etcd") // the search reads the right files
		out, _ := c.Members[0].Command("grep", "-racF", plaintext, "/var/lib/etcd").Output()
		inFiles := 0
		for line := range strings.Lines(string(out)) {
			if !strings.HasSuffix(strings.TrimSpace(line), ":0") {
				inFiles++
			}
		}
		if found := bytes.Count(c.Dump(), []byte(plaintext)); (found > 0) != plain || (inFiles > 0) != plain {
			t.Errorf("plain %t: an authorization value is %d times in the dump, and in %d files of the member", plain, found, inFiles)
		}
	}
}

// TestNonsense checks that values that this program did not write are reported with their key,
// are not changed, do no harm to another state, and that nothing is lost when they are repaired.
func TestNonsense(t *testing.T) {
	c := lab.NewCluster(t, 1)
	h := c.NewHost(t, bin, "host", "")
	i, n := newTPM(t, h, "vm1")
	stop(t, i)
	other, _ := newTPM(t, h, "vm2")
	const item = "item/tpm2-00.permall"
	for _, x := range []struct{ name, key, value string }{
		{"owner that is no JSON", "owner", "\x00\xff{"},
		{"huge owner", "owner", `{"host":"` + strings.Repeat("a", 1<<20) + `"}`},
		{"owner with escape sequences", "owner", `{"host":"\u001b[2Jroot","nonce":"x"}`},
		{"short head", "head", "\x01"},
		{"head of another version", "head", "\x02" + strings.Repeat("\x00", 80)},
		{"head with another sum", "head", "\x01" + strings.Repeat("\x00", 80)},
		{"huge head", "head", strings.Repeat("\x01", 1<<20)},
		{"empty item", item, ""},
		{"item that is no state", item, "nonsense"},
		{"huge item", item, strings.Repeat("x", 1<<20+5<<10)},
		{"one more item", "item/tpm2-00.other", "x"},
	} {
		t.Run(x.name, func(t *testing.T) { nonsense(t, c, h, "/swtpm/vm1/"+x.key, x.value) })
		if _, err := persist(other, increment); err != nil {
			t.Fatalf("%s: another state: %v", x.name, err)
		}
	}
	for _, epoch := range []string{"", "-1", strings.Repeat("9", 1<<20)} { // the next start replaces it
		if _, err := c.Client.Put(t.Context(), "/swtpm/vm1/epoch", epoch); err != nil {
			t.Fatal(err)
		}
		i, err := h.Acquire("vm1", harness.EventTimeout)
		if err != nil {
			t.Fatalf("epoch of %d bytes: %v", len(epoch), err)
		}
		stop(t, i)
		if now, err := c.Client.Get(t.Context(), "/swtpm/vm1/epoch"); err != nil || len(now.Kvs[0].Value) > 20 {
			t.Errorf("the epoch has %d bytes, %v", len(now.Kvs[0].Value), err)
		}
	}
	i, err := h.Acquire("vm1", harness.EventTimeout)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := persist(i, read); err != nil || got != n {
		t.Errorf("the counter is %d, %v, want %d", got, err, n)
	}
}

// nonsense sets a key to a value, starts the TPM of the state, and puts the key back.
func nonsense(t *testing.T, c *lab.Cluster, h *lab.Host, key, value string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before, err := c.Client.Get(ctx, key)
	if err == nil {
		_, err = c.Client.Put(ctx, key, value)
	}
	if err != nil {
		t.Fatal(err)
	}
	said := refused(t, h, "vm1")
	if !strings.Contains(said, "damaged") && !strings.Contains(said, "owned by host") {
		t.Errorf("the error does not say what is wrong: %.400s", said)
	}
	if len(said) > 4000 || strings.ContainsAny(said, "\x00\x1b") {
		t.Errorf("%d bytes of output: %.400q", len(said), said)
	}
	if now, err := c.Client.Get(ctx, key); err != nil || len(now.Kvs) != 1 || string(now.Kvs[0].Value) != value {
		t.Errorf("the value was changed: %v", err)
	}
	if len(before.Kvs) > 0 {
		_, err = c.Client.Put(ctx, key, string(before.Kvs[0].Value))
	} else {
		_, err = c.Client.Delete(ctx, key)
	}
	if err == nil { // what the start acquired ends with the broker's patience
		_, err = c.Client.Delete(ctx, "/swtpm/vm1/owner")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoles checks that a broker with the rights for one prefix gets nothing of another one,
// neither reads nor writes, and that a user gets only the states that [[allow]] gives it.
func TestRoles(t *testing.T) {
	c := lab.NewCluster(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, group := range []string{"a", "b"} {
		must(t)(c.Client.RoleAdd(ctx, group))
		prefix := "/swtpm-" + group + "/"
		must(t)(c.Client.RoleGrantPermission(ctx, group, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite)))
		must(t)(c.Client.UserAdd(ctx, group, "pass-"+group))
		must(t)(c.Client.UserGrantRole(ctx, group, group))
	}
	must(t)(c.Client.UserAdd(ctx, "root", "root"))
	must(t)(c.Client.UserGrantRole(ctx, "root", "root"))
	must(t)(c.Client.AuthEnable(ctx))
	host := func(name, prefix, user string) *lab.Host {
		h := c.NewHost(t, bin, name, fmt.Sprintf("prefix = %q\n[auth]\nuser = %q\npassword-file = %q\n", prefix, user, "/var/lib/password"))
		h.Sh("printf pass-" + user + " > /var/lib/password")
		h.RestartBroker()
		return h
	}
	a, b := host("a", "/swtpm-a", "a"), host("b", "/swtpm-b", "b")
	i, n := newTPM(t, a, "vm1")
	stop(t, i)
	newTPM(t, b, "vm1")
	for n, prefix := range []string{"/swtpm-a", "/swtpm", "/swtpm-a/vm1"} {
		thief := host(fmt.Sprintf("thief%d", n), prefix, "b")
		if said := refused(t, thief, "vm1"); !strings.Contains(said, "denied") {
			t.Errorf("prefix %q: %.400s", prefix, said)
		}
	}
	a.Users("0", "vm2")
	if said := refused(t, a, "vm1"); !strings.Contains(said, "[[allow]]") {
		t.Errorf("a state that [[allow]] does not name: %.400s", said)
	}
	a.Users("0", "vm1")
	i, err := a.Acquire("vm1", harness.EventTimeout)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := persist(i, read); err != nil || got != n {
		t.Errorf("the counter is %d, %v, want %d", got, err, n)
	}
}

// must fails the test at an error.
func must(t *testing.T) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}
