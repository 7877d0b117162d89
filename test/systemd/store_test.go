package systemd_test

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The units of the broker, and of an etcd that the tests start.
const (
	broker       = "swtpm-store.service"
	brokerSocket = "swtpm-store.socket"
	etcd         = "test-etcd.service"
)

// stored is a profile whose state is in the cluster store.
func stored() string {
	return strings.Replace(profile("clear"), `dir = "/var/lib/swtpm/%i"`, `store = "%i"`, 1) +
		"[key]\nfile = \"/etc/swtpm/store.key\"\nmode = \"aes-256-cbc\"\n" + made
}

// storeConfig is the configuration of the broker: a unit uses the state of its instance only.
const storeConfig = `endpoints = ["http://127.0.0.1:2379"]
host = "here"
[lease]
ttl = "15s"
margin = "1s"
[[allow]]
users  = ["swtpm"]
units  = ["swtpm@*.service", "swtpm-manufacture@*.service"]
states = ["%i"]
[[allow]]
users  = ["root"]
states = ["*"]
`

// storeInstance is an instance whose state is in a cluster store: etcd runs in the container, and
// the socket of the broker is active. Nothing has started the broker.
func storeInstance(t *testing.T) (name string) {
	t.Helper()
	name = instance(t, stored())
	startEtcd(t)
	put(t, "/etc/swtpm/store.toml", 0o644, storeConfig)
	put(t, "/etc/swtpm/store.key", 0o400, strings.Repeat("5a", 32)+"\n")
	must(t, "chown", "swtpm", "/etc/swtpm/store.key")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := in("journalctl", "--no-pager", "--unit="+broker, "--unit="+brokerSocket, "--unit="+maker(name))
			t.Logf("%s", out)
		}
		_, _ = in("systemctl", "stop", service(name), brokerSocket, broker)
		_, _ = in("systemctl", "reset-failed", brokerSocket, broker)
		_, _ = in("sh", "-c", "rm -f /etc/swtpm/"+name+"*.toml") // other tests have no broker
	})
	must(t, "systemctl", "start", brokerSocket)
	if got := property(t, broker, "ActiveState"); got != "inactive" {
		t.Fatalf("the broker is %s before its first client", got)
	}
	return name
}

// startEtcd runs the etcd of this machine in the container, for all tests: the broker would refuse
// another one, as a restored backup.
func startEtcd(t *testing.T) {
	t.Helper()
	file, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal("etcd is missing: install etcd-server")
	}
	if _, err := in("systemctl", "is-active", etcd); err == nil {
		return
	}
	if _, err := os.Stat(inside("/usr/local/bin/etcd")); err != nil {
		must(t, "mkdir", "-p", "/usr/local/bin")
		if out, err := exec.Command("cp", file, inside("/usr/local/bin/etcd")).CombinedOutput(); err != nil {
			t.Fatalf("copy etcd: %v: %s", err, out)
		}
	}
	out, err := in("systemd-run", "--quiet", "--collect", "--unit="+etcd, "--property=Type=notify", "/usr/local/bin/etcd", "--data-dir=/run/test-etcd",
		"--logger=zap", "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380")
	if err != nil {
		log, _ := in("journalctl", "--no-pager", "--unit="+etcd)
		t.Fatalf("start etcd: %v: %s\n%s", err, out, log)
	}
}

// owned reports whether swtpm list says that this host owns the state of a TPM.
func owned(t *testing.T, name string) bool {
	t.Helper()
	l := listOwned(t, name)
	if l.TPMs[0].Location != "store://"+name {
		t.Fatalf("the list has %+v", l.TPMs)
	}
	o := l.TPMs[0].Owner
	if !o.Exists || o.Here != (o.Host == "here") {
		t.Errorf("the owner is %+v", o)
	}
	return o.Here
}

// listOwned returns the list of one TPM with the owner of its state.
func listOwned(t *testing.T, name string) listed {
	t.Helper()
	return listWith(t, name, func(l listed) bool { return len(l.TPMs) == 1 && l.TPMs[0].Owner != nil })
}

// TestStore checks that a TPM in a cluster store needs no other command than the start of its
// unit: the socket starts the broker, the manufacture stores into etcd, and no file of a state is
// on this host.
func TestStore(t *testing.T) {
	name := storeInstance(t)
	g := newGuest(t, name)
	await(t, broker, "ActiveState", "active")
	if out := must(t, "find", "/var/lib/swtpm/"+name, "-type", "f"); out != "" {
		t.Errorf("files of the state on this host: %s", out)
	}
	if !owned(t, name) {
		t.Error("the state has no owner")
	}
	if got := must(t, "stat", "--format=%U %a", "/run/swtpm-store", "/var/lib/swtpm-store/mark"); got != "swtpm-store 755\nswtpm-store 600\n" {
		t.Errorf("the directory and the mark of the broker are %q", got)
	}
	g.stores(t)

	// Other instances: the unit names the state, not the profile.
	thief := name + "-thief"
	put(t, "/etc/swtpm/"+thief+".toml", 0o644, strings.Replace(stored(), `store = "%i"`, `store = "`+name+`"`, 1))
	fails(t, "systemctl", "start", service(thief))
	awaitJournal(t, service(thief), "access denied")
	g.continues(t)

	must(t, "systemctl", "stop", g.unit)
	certified(t, name) // the broker reserves the state for this host
	g.conn = dial(t, name)
	if n := g.counter(t); n != g.count {
		t.Errorf("the counter is %d after a stop and a start, want %d", n, g.count)
	}
}

// TestStoreRestarts checks that each command of a guest is answered, and that nothing acknowledged
// is lost, while the broker is restarted, stopped and killed, and when the TPM is restarted.
func TestStoreRestarts(t *testing.T) {
	name := storeInstance(t)
	g := newGuest(t, name)
	stop := g.traffic(t, 5*time.Millisecond)
	pid := property(t, g.unit, "MainPID")
	if got := listOwned(t, name).TPMs[0]; got.Generation == 0 || got.Owner.Since == "" || got.Owner.Epoch == 0 {
		t.Errorf("the list has %+v, %+v", got, got.Owner)
	}
	for range 3 {
		before := property(t, broker, "MainPID")
		must(t, "systemctl", "restart", broker)
		if property(t, broker, "MainPID") == before {
			t.Error("the broker was not restarted")
		}
		must(t, "systemctl", "is-active", broker)
	}
	killed(t, broker)
	await(t, broker, "ActiveState", "active")
	if sent, longest := stop(); sent == 0 {
		t.Error("there was no traffic")
	} else {
		t.Logf("%d commands, the longest wait was %v", sent, longest)
	}
	g.stores(t)

	must(t, "systemctl", "stop", broker) // the socket starts it again
	g.stores(t)
	await(t, broker, "ActiveState", "active")
	g.continues(t)
	if got := property(t, g.unit, "MainPID"); got != pid {
		t.Error("the TPM was restarted")
	}

	maker := property(t, maker(name), "InvocationID")
	must(t, "systemctl", "restart", g.unit)
	g.continues(t)
	g.stores(t)
	killed(t, g.unit)
	await(t, g.unit, "ActiveState", "active")
	g.continues(t)
	g.stores(t)
	if got := property(t, "swtpm-manufacture@"+name+".service", "InvocationID"); got != maker {
		t.Error("the manufacture ran again")
	}
}

// monotonic returns a time of a unit in microseconds.
func monotonic(t *testing.T, unit, what string) int {
	t.Helper()
	n, err := strconv.Atoi(property(t, unit, what+"TimestampMonotonic"))
	if err != nil || n == 0 {
		t.Fatalf("%s of %s: %d, %v", what, unit, n, err)
	}
	return n
}

// TestStoreStops checks that a transaction that stops everything, as the end of the host is one, stops the TPM before the
// broker: nothing is lost, no owner is left, and nothing starts again.
func TestStoreStops(t *testing.T) {
	name := storeInstance(t)
	put(t, "/etc/swtpm/store.toml", 0o644, strings.Replace(storeConfig, `"15s"`, `"5s"`, 1))
	g := newGuest(t, name)
	g.stores(t)
	end := name + "-end.target"
	put(t, "/etc/systemd/system/"+end, 0o644, "[Unit]\nConflicts="+strings.Join([]string{broker, brokerSocket, g.unit}, " ")+"\n")
	must(t, "systemctl", "daemon-reload")
	must(t, "systemctl", "start", end)
	t.Cleanup(func() { _, _ = in("systemctl", "stop", end) })
	await(t, broker, "ActiveState", "inactive")
	tpm, begin := monotonic(t, g.unit, "InactiveEnter"), monotonic(t, broker, "ActiveExit")
	if tpm > begin {
		t.Errorf("the TPM ended %d us after the broker began to stop", tpm-begin)
	}
	for _, unit := range []string{g.unit, broker, brokerSocket, maker(name)} {
		wantStopped(t, unit)
	}
	must(t, "systemctl", "stop", end)
	must(t, "systemctl", "start", brokerSocket)
	for deadline := time.Now().Add(patience); owned(t, name); time.Sleep(100 * time.Millisecond) { // the time to live
		if time.Now().After(deadline) {
			t.Fatal("the state has an owner after the stop")
		}
	}
	must(t, "systemctl", "start", g.unit)
	g.conn = dial(t, name)
	if n := g.counter(t); n != g.count {
		t.Errorf("the counter is %d after a stop and a start, want %d", n, g.count)
	}
}

// restarts returns how often systemd has restarted a unit by itself.
func restarts(t *testing.T, unit string) int {
	t.Helper()
	n, err := strconv.Atoi(property(t, unit, "NRestarts"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStoreMistake checks that a mistake in store.toml is one line with the key. The TPMs that
// wait continue when it is corrected, because the sockets stay however often systemd starts the
// broker meanwhile.
func TestStoreMistake(t *testing.T) {
	name := storeInstance(t)
	config := strings.Replace(storeConfig, `"15s"`, `"1m"`, 1)
	put(t, "/etc/swtpm/store.toml", 0o644, config)
	g := newGuest(t, name)
	dropIn(t, broker, "[Service]\nRestartSec=20ms\n") // many starts
	t.Cleanup(func() {
		_, _ = in("rm", "-r", "/etc/systemd/system/"+broker+".d")
		_, _ = in("systemctl", "daemon-reload")
	})
	put(t, "/etc/swtpm/store.toml", 0o644, strings.Replace(config, "endpoints", "endpoint", 1))
	fails(t, "systemctl", "restart", broker)
	want := `swtpm-store: /etc/swtpm/store.toml:1: endpoint: unknown key; did you mean "endpoints"?`
	if out := awaitJournal(t, broker, want); !slices.Contains(strings.Split(out, "\n"), want) {
		t.Errorf("no line %q in\n%s", want, out)
	}
	status := property(t, broker, "StatusText")
	for end := time.Now().Add(patience); !strings.Contains(status, "endpoint"); status = property(t, broker, "StatusText") {
		if time.Now().After(end) {
			t.Fatalf("the status is %q", status)
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop := g.traffic(t, 20*time.Millisecond) // before the deadline, commands that store nothing are answered
	for end := time.Now().Add(patience); restarts(t, broker) < 3; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("systemd does not start the broker again")
		}
	}
	if got := property(t, brokerSocket, "ActiveState"); got != "active" {
		t.Errorf("the socket is %s", got)
	}
	put(t, "/etc/swtpm/store.toml", 0o644, config)
	await(t, broker, "ActiveState", "active")
	if sent, _ := stop(); sent == 0 {
		t.Error("there was no traffic")
	}
	g.continues(t)
	g.stores(t)
}
