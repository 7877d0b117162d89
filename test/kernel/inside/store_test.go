package inside_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// stored is the profile of a unit with its state in a cluster store.
const stored = `[interface]
server = "unix:/run/swtpm/%i/data.sock"
[control]
listen = "unix:/run/swtpm/%i/ctrl.sock"
[tpmstate]
store = "%i"
[flags]
startup = "clear"
[key]
file = "/etc/swtpm/store.key"
mode = "aes-256-cbc"
[manufacture]
ek = ["secp256r1"]
ek-cert = true
`

// storeConfig is a configuration of the broker; this kernel does not name the units of clients.
const storeConfig = `endpoints = ["http://127.0.0.1:2379"]
[[allow]]
users  = ["swtpm"]
states = ["*"]
[[allow]]
users  = ["root"]
states = ["*"]
`

// TestConfinedStore runs the broker under its policy: the socket starts it, a confined manufacture stores
// through it, and so does a confined TPM, also through a new connection after each restart of the broker.
func TestConfinedStore(t *testing.T) {
	const name, broker = "stored", "swtpm-store.service"
	if !exists("/tests/etcd") {
		t.Fatal("etcd is missing: install etcd-server where make kernel runs")
	}
	start(t, "/tests/etcd", "--data-dir=/run/etcd", "--logger=zap", "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380")
	write(t, "/etc/swtpm/store.toml", storeConfig)
	until(t, "etcd", func() bool { return exec.Command("swtpm-store", "--check").Run() == nil })
	write(t, "/etc/swtpm/store.key", strings.Repeat("5a", 32)+"\n")
	run(t, "chown", "swtpm", "/etc/swtpm/store.key")
	run(t, "chmod", "0400", "/etc/swtpm/store.key")
	write(t, "/etc/swtpm/"+name+".toml", stored)
	installed(t, name)
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", "swtpm@"+name, "swtpm-store.socket", broker).Run()
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-n", "60", "-u", broker, "-u", "swtpm-manufacture@"+name).CombinedOutput()
			t.Logf("%s", out)
		}
	})
	run(t, "systemctl", "start", "swtpm-store.socket")
	service(t, "start", name)
	isConfined(t, mainPID(t, name))
	const define = "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800001 000b 02060016 0000 0008"
	const increment = "8002 0000001f 00000134 01800001 01800001 00000009 40000009 0000 00 0000"
	d := dial(t, "unix", "/run/swtpm/"+name+"/data.sock")
	d.succeed(t, define)
	for range 3 {
		d.succeed(t, increment)
		pid := strings.TrimSpace(run(t, "systemctl", "show", "-P", "MainPID", broker))
		b, err := os.ReadFile("/proc/" + pid + "/attr/current")
		if got := strings.TrimRight(string(b), "\n\x00"); err != nil || got != confinement().broker {
			t.Errorf("the broker is %q, %v; want %q", got, err, confinement().broker)
		}
		run(t, "systemctl", "restart", broker)
	}
	d.succeed(t, increment)
	service(t, "restart", name)
	d.succeed(t, increment)
	if out := run(t, "swtpm-store", "--check"); !strings.Contains(out, "it has 1 state") {
		t.Errorf("the store has %s", out)
	}
	if out := run(t, "swtpm", "list", name); !strings.Contains(out, name) || !strings.Contains(out, "in the store") {
		t.Errorf("swtpm list prints %s", out)
	}
	service(t, "stop", name)
}
