package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
)

const good = `
endpoints = ["http://127.0.0.1:2379"]
[[allow]]
users = ["0"]
states = ["vm-*"]
[[allow]]
users = ["*"]
states = ["public"]
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAllowed checks the users and the states of [[allow]].
func TestAllowed(t *testing.T) {
	c, err := load(write(t, good))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		uid   uint32
		state string
		want  bool
	}{{0, "vm-1", true}, {1, "vm-1", false}, {1, "public", true}, {0, "other", false}, {0, "public", true}} {
		if got := c.allowed(broker.Credentials{UID: x.uid}, x.state); got != x.want {
			t.Errorf("allowed(%d, %q) = %v", x.uid, x.state, got)
		}
	}
}

// TestUnits checks that a unit of systemd may use its own state only.
func TestUnits(t *testing.T) {
	c, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\n[[allow]]\nusers = [\"0\"]\nunits = [\"swtpm@*.service\"]\nstates = [\"%i\", \"%i-old\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		unit, state string
		want        bool
	}{
		{"swtpm@vm1.service", "vm1", true}, {"swtpm@vm1.service", "vm1-old", true}, {"swtpm@vm1.service", "vm2", false}, {"swtpm@vm1.service", "", false},
		{"other@vm1.service", "vm1", false}, {"", "vm1", false}, {"swtpm@.service", "", false}, {"swtpm@*.service", "vm1", false},
		{"swtpm@a\\x2db.service", "a-b", false}, {"swtpm@vm1.scope", "vm1", false},
	} {
		if got := c.allowed(broker.Credentials{Unit: x.unit}, x.state); got != x.want {
			t.Errorf("unit %q, state %q: allowed = %v", x.unit, x.state, got)
		}
	}
	if c.allowed(broker.Credentials{UID: 1, Unit: "swtpm@vm1.service"}, "vm1") {
		t.Error("another user may use the state")
	}
}

// TestMatchable checks that a pattern that matches no name of a state is refused.
func TestMatchable(t *testing.T) {
	for _, x := range []struct {
		states string
		want   bool
	}{
		{"vm1", true}, {"*", true}, {"vm-[0-9]?", true}, {"[^a]*", true}, {"%i", true}, {"%i-old", true}, {"a@b:c+d.e_f", true}, {`v\\m`, true}, {"?" + strings.Repeat("a", 127), true},
		{"%n", false}, {"", false}, {"a/b", false}, {"store://vm1", false}, {"vm 1", false}, {".x*", false}, {".", false}, {"ä", false}, {strings.Repeat("a", 129), false}, {"[!a]", false},
	} {
		_, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\n[[allow]]\nusers = [\"0\"]\nunits = [\"a@*.service\"]\nstates = [\""+x.states+"\"]\n"))
		if got := err == nil; got != x.want || err != nil && !strings.Contains(err.Error(), "matches no state") {
			t.Errorf("states = %q: %v", x.states, err)
		}
	}
}

// TestRefusal checks that a refusal names what did not match, and what to do.
func TestRefusal(t *testing.T) {
	c, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\n[[allow]]\nusers = [\"0\"]\nunits = [\"swtpm@*.service\"]\nstates = [\"%i\"]\n[[allow]]\nusers = [\"5\"]\nstates = [\"a\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		who  broker.Credentials
		want string
	}{
		{broker.Credentials{UID: 1}, "no [[allow]] names user 1; add it to the users of a table"},
		{broker.Credentials{}, "each [[allow]] of user 0 has units, and the process is in no unit"},
		{broker.Credentials{Unit: "libvirtd.service"}, `no [[allow]] of user 0 has the unit "libvirtd.service" of the process; add the unit`},
		{broker.Credentials{Unit: "swtpm@vm2.service"}, `no [[allow]] of user 0 and unit "swtpm@vm2.service" has it; add the state`},
		{broker.Credentials{UID: 5}, "no [[allow]] of user 5 has it; add the state"},
	} {
		if got := c.refusal(x.who, "vm1"); !strings.HasPrefix(got, x.want) || !strings.HasSuffix(got, " in store.toml, then systemctl restart swtpm-store") || c.allowed(x.who, "vm1") {
			t.Errorf("refusal of %+v: %s", x.who, got)
		}
	}
}

// TestNoUnit checks that a table with units does not apply to a process whose unit is unknown.
func TestNoUnit(t *testing.T) {
	c, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\n[[allow]]\nusers = [\"0\"]\nunits = [\"*\"]\nstates = [\"*\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.allowed(broker.Credentials{}, "vm1") || !c.allowed(broker.Credentials{Unit: "a.service"}, "vm1") {
		t.Error("units = [\"*\"] applies to a process without a unit, or not to one in a unit")
	}
}

// TestKnows checks that a user that no [[allow]] names is unknown, so that it cannot connect,
// unless it is an observer (TestObservers).
func TestKnows(t *testing.T) {
	for _, x := range []struct {
		users string
		uid   uint32
		want  bool
	}{{"0", 0, true}, {"0", 1, false}, {"*", 1, true}} {
		c, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\n[[allow]]\nusers = [\""+x.users+"\"]\nstates = [\"*\"]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.knows(broker.Credentials{UID: x.uid}); got != x.want {
			t.Errorf("users = %q: knows(%d) = %v", x.users, x.uid, got)
		}
	}
}

// TestFaults checks that every fault of a file is one line with the file, the key and the problem.
func TestFaults(t *testing.T) {
	for _, x := range []struct{ text, want string }{
		{"", "missing key endpoints"},
		{"endpoints = [\"etcd1:2379\"]", "is not a URL"},
		{"endpoints = [\"https://etcd1:2379\"]", "needs the key ca"},
		{"endpoint = [\"http://a:1\"]" + good, `:1: endpoint: unknown key; did you mean "endpoints"?`},
		{good + "[lease]\nttl = \"1s\"", "[lease] ttl: 1s is not between"},
		{good + "[lease]\nttl = 15", `:10: [lease] ttl: write a duration, e.g. ttl = "15s"`},
		{good + "[lease]\nttl = \"15\"", `:10:8: lease.ttl: invalid duration "15"`},
		{good + "[lease]\nt-t-l = 15\n[lease2]", `:10: [lease] t-t-l: unknown key; did you mean "ttl"?`},
		{good + "[[allow]]\nuser = [\"0\"]\nstates = [\"*\"]", `:10: [[allow]] user: unknown key; did you mean "users"?`},
		{good + "[[allow]]\nxyzzyxyzzy = 1", ":10: [[allow]] xyzzyxyzzy: unknown key; swtpm-store.toml(5) lists the keys"},
		{"endpoints = [\"http://a:1\"]\n[allow]\nusers = [\"0\"]", ":2: allow: write the name of the table in two brackets, [[allow]]"},
		{good + "[[tls]]\nca = \"x\"", ":9: tls: write a table, [tls]"},
		{good + "[[allow]]\nusers = \"root\"\nstates = 1", `:10: [[allow]] users: write a list of strings, e.g. users = ["root"]`},
		{good + "[[allow]]\nusers = [0]", `:10: [[allow]] users: write a list of strings, e.g. users = ["root"]`},
		{good + "[[allow]]\nusers = [\"0\"]\n\"states\" = \"x\"", `:11: [[allow]] states: write a list of strings, e.g. states = ["vm-*"]`},
		{"host = 3\n" + good, `:1: host: write a string in quotes, host = "..."`},
		{"lease = {ttl = 3}\n" + good, `store.toml: [lease] ttl: write a duration`},
		{"generations = \"8\"\n" + good, ":1: generations: write a whole number without quotes, e.g. generations = 8"},
		{good + "[lease]\nmargin = \"14s\"", "[lease] margin"},
		{good + "[tls]\ncertificate = \"x\"", "belong together"},
		{good + "[[allow]]\nusers = [\"no such user\"]\nstates = [\"*\"]", `[[allow]] no. 3: users: unknown user "no such user"`},
		{good + "[[allow]]\nusers = [\"0\"]\nstates = [\"[\"]", "is not a pattern"},
		{"endpoints = [\"http://a:1\"]", "missing table [[allow]]"},
		{"endpoints = [\"http://a:1\"\n", ":1:26: "},
		{good + "[[allow]]\nusers = [\"0\"]\nstates = [\"%i\"]", "needs the key units"},
		{good + "[[allow]]\nusers = [\"0\"]\nunits = [\"[\"]\nstates = [\"*\"]", "units: \"[\" is not a pattern"},
		{good + "[[allow]]\nstates = [\"*\"]", "[[allow]] no. 3: missing key users"},
		{good + "[[allow]]\nusers = [\"0\"]", "[[allow]] no. 3: missing key states"},
		{good + "[[allow]]\nusers = [\"0\"]\nunits = []\nstates = [\"*\"]", "units: empty; name a pattern, or remove the key"},
		{good + "[[allow]]\nusers = [\"0\"]\nunits = [\"\"]\nstates = [\"*\"]", `units: "" is no unit`},
		{"generations = -1\n" + good, "generations"},
		{"prefix = \"/\"\n" + good, "prefix"},
	} {
		path := write(t, x.text)
		_, err := load(path)
		if err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("load of %q: %v, want %q", x.text, err, x.want)
		}
	}
	if _, err := load(write(t, `endpoints = ["http://a:1"]`+"\n"+`allow = [{users = ["0"], states = ["*"]}, {users = ["0"], states = ["*"]}]`)); err != nil {
		t.Errorf("inline tables: %v", err)
	}
	if _, err := load("/nonexistent"); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("load of a missing file: %v", err)
	}
}

// TestExample checks that the example has no fault except its certificates and users, which do not
// exist here.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../examples/store.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := load(write(t, strings.Replace(string(text), `["swtpm"]`, `["0"]`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.etcd(); err == nil || !strings.Contains(err.Error(), "/etc/swtpm/store/ca.crt") {
		t.Errorf("etcd: %v", err)
	}
}

// TestObservers checks the users that may see the owners of states, and that one of them is no
// user of a state.
func TestObservers(t *testing.T) {
	const rest = "\n[[allow]]\nusers = [\"7\"]\nstates = [\"*\"]\n"
	for _, x := range []struct {
		line string
		uid  uint32
		want bool
	}{{"", 0, true}, {"", 7, false}, {"observers = []", 0, false}, {`observers = ["12", "root"]`, 12, true}, {`observers = ["12"]`, 0, false}} {
		c, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\n"+x.line+rest))
		if err != nil {
			t.Fatal(err)
		}
		who := broker.Credentials{UID: x.uid}
		if got := c.observes(who); got != x.want || c.knows(who) != (x.want || x.uid == 7) || c.allowed(who, "vm1") != (x.uid == 7) {
			t.Errorf("%q: observes(%d) = %v, knows %v, allowed %v", x.line, x.uid, got, c.knows(who), c.allowed(who, "vm1"))
		}
	}
	if _, err := load(write(t, "endpoints = [\"http://127.0.0.1:2379\"]\nobservers = [\"nobody-here\"]"+rest)); err == nil || !strings.Contains(err.Error(), `observers: unknown user "nobody-here"`) {
		t.Errorf("an unknown observer: %v", err)
	}
}
