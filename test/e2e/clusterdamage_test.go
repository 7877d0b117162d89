package e2e_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// damage sets a key of the state vm1 to nonsense.
func (h *clusterHost) damage(key string) {
	h.t.Helper()
	if _, err := h.client().Put(h.t.Context(), "/swtpm/vm1/"+key, "nonsense"); err != nil {
		h.t.Fatal(err)
	}
}

// TestClusterDamage checks what --check says of a state of which a key is damaged, and that a copy of
// such a state does not count as a good one.
func TestClusterDamage(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	c := h.client()
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	h.run("Successfully authored", "swtpm-setup", vm1)
	for _, x := range []struct{ key, check, copied string }{
		{"item/tpm2-00.permall", "!error: damaged: state vm1: ", "!of use for an examination only; copy a stored generation: --generation N"},
		{"head", "!error: damaged: state vm1: the store holds damaged data: key \"/swtpm/vm1/head\": 8 bytes", "!only if swtpm state verify with the key succeeds there, or copy a stored generation: --generation N"},
		{"epoch", "warning: damaged: state vm1: the store holds damaged data: key \"/swtpm/vm1/epoch\": 8 bytes, expected a decimal number; the next start", "copied to"},
		{"owner", "!if no host runs it, remove the key: etcdctl del /swtpm/vm1/owner", "!etcdctl del /swtpm/vm1/owner; --force copies it nevertheless"},
	} {
		at := "/swtpm/vm1/" + x.key
		old, err := c.Get(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		h.damage(x.key)
		h.run(x.check, "swtpm-store", "--config", config, "--check")
		h.run(x.copied, "swtpm", "state", "pull", "--config", config, "vm1", h.path("copy-"+strings.ReplaceAll(x.key, "/", "-")))
		switch x.key {
		case "epoch": // the next start replaces it
			h.run("accepted as generation", "swtpm", "state", "accept", vm1)
		case "owner":
			h.run("!etcdctl del /swtpm/vm1/owner", "swtpm", "state", "verify", vm1)
			h.run("!etcdctl del /swtpm/vm1/owner", "swtpm", "doctor", vm1)
			h.run("!etcdctl del /swtpm/vm1/owner", "swtpm", "state", "accept", vm1)
			h.etcdctl("del", "/swtpm/vm1/owner")
		default:
			if _, err := c.Put(t.Context(), at, string(old.Kvs[0].Value)); err != nil {
				t.Fatal(err)
			}
		}
		h.run("The store answers", "swtpm-store", "--config", config, "--check")
		h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	}
}

// tpm starts the TPM of the state vm1.
func (h *clusterHost) tpm() (*emulator, *channel) {
	h.t.Helper()
	e := start(h.t, setup{tpm: v20, store: "store://vm1", socket: h.path("socket"), args: []string{"--key", "file=" + h.path("key")}})
	return e, e.power(h.t, v20)
}

// increment increments the number, again if the store was too slow.
func increment(t testing.TB, ch *channel) {
	t.Helper()
	var err error
	harness.Await(t, "an increment", func() bool {
		err = ch.bump(0)
		return err == nil || !strings.Contains(err.Error(), "0x922")
	})
	if err != nil {
		t.Fatalf("an increment: %v", err)
	}
}

// wantRefused checks that all that would use a state with a damaged head refuse it and name the remedy,
// with the newest stored generation.
func (h *clusterHost) wantRefused(newest string, target []string) {
	h.t.Helper()
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	remedy := "swtpm state rollback --generation " + newest + " --tpmstate backend-uri=store://vm1 --key file=KEY; or copy it out: swtpm state pull --generation " + newest +
		" vm1 DIRECTORY; or restore a backup: swtpm state import --replace --tpmstate backend-uri=store://vm1 --key file=KEY FILE"
	h.run("!error: damaged: state vm1: the store holds damaged data: key \"/swtpm/vm1/head\"", "swtpm-store", "--config", config, "--check")
	h.run("!"+remedy, "swtpm-store", "--config", config, "--check")
	h.run("!"+remedy, "swtpm", "doctor", vm1)
	h.run("!"+remedy, "swtpm", "state", "verify", vm1)
	h.run("!"+remedy, "swtpm-setup", vm1)
	h.run("!"+remedy, "swtpm", append([]string{"socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--ctrl", "type=unixio,path=" + h.path("ctrl")}, target...)...)
	h.run("!already has a TPM 2.0", "swtpm", append(append([]string{"state", "import"}, target...), h.path("one.tpm"))...)
}

// wayBack is a command that restores a state with a damaged head.
type wayBack struct {
	name, want string
	words      func(newest string) []string // of swtpm, after the newest stored generation is known
	number     uint64                       // of the TPM afterwards
}

// wantWayBack increments the number of the TPM, damages its head and checks the command.
func (h *clusterHost) wantWayBack(x wayBack, target []string) {
	h.t.Helper()
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	e, ch := h.tpm()
	increment(h.t, ch)
	e.terminate(h.t)
	numbers, _ := h.listed(target...)
	before, newest := h.contents("vm1"), numbers[len(numbers)-1]
	h.damage("head")
	h.wantRefused(newest, target)
	if again, _ := h.listed(target...); !slices.Equal(again, numbers) {
		h.t.Errorf("%v are listed, and were %v", again, numbers)
	}
	h.run(x.want, "swtpm", x.words(newest)...)
	after := h.contents("vm1")
	for key, value := range after {
		if old, ok := before[key]; ok && old != value {
			h.t.Errorf("%s: %s was changed", x.name, key)
		}
	}
	again, _ := h.listed(target...)
	last, err := strconv.Atoi(again[len(again)-1])
	if highest, failed := strconv.Atoi(newest); err != nil || failed != nil || last <= highest {
		h.t.Errorf("%s: %v are listed, and were %v: want a higher one at the end", x.name, again, numbers)
	}
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	h.run("The store answers", "swtpm-store", "--config", config, "--check")
	e, ch = h.tpm()
	if n := ch.number(h.t); n != x.number {
		h.t.Errorf("%s: the number is %d, want %d", x.name, n, x.number)
	}
	e.terminate(h.t)
}

// TestClusterDamagedHead checks the ways back from a head that cannot be read: nothing but the documented
// commands uses or replaces the state, no stored generation is changed, and the TPM starts with what they
// restored.
func TestClusterDamagedHead(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	target := []string{"--tpmstate", "backend-uri=store://vm1", "--key", "file=" + h.path("key")}
	e, ch := h.tpm()
	ch.define(t)
	e.terminate(t)
	h.run("exported", "swtpm", append(append([]string{"state", "export", "--sealed"}, target...), h.path("one.tpm"))...)
	for _, x := range []wayBack{
		{"rollback --generation", "is restored", func(n string) []string {
			return append([]string{"state", "rollback", "--drop-volatile", "--generation", n}, target...)
		}, 2},
		{"import --replace", "imported", func(string) []string {
			return append(append([]string{"state", "import", "--replace"}, target...), h.path("one.tpm"))
		}, 1},
		{"import --replace of a copy", "imported", func(n string) []string {
			copied := h.path("pulled")
			h.run("copied to", "swtpm", "state", "pull", "--config", config, "--generation", n, "vm1", copied)
			h.run("exported", "swtpm", "state", "export", "--sealed", "--tpmstate", "dir="+copied, "--key", "file="+h.path("key"), h.path("copy.tpm"))
			return append(append([]string{"state", "import", "--replace"}, target...), h.path("copy.tpm"))
		}, 2},
		{"import --replace of the items", "imported", func(string) []string {
			copied := h.path("items")
			h.run("!only if swtpm state verify", "swtpm", "state", "pull", "--config", config, "vm1", copied)
			h.run("ok (permall)", "swtpm", "state", "verify", "--tpmstate", "dir="+copied, "--key", "file="+h.path("key"))
			h.run("exported", "swtpm", "state", "export", "--sealed", "--tpmstate", "dir="+copied, "--key", "file="+h.path("key"), h.path("items.tpm"))
			return append(append([]string{"state", "import", "--replace"}, target...), h.path("items.tpm"))
		}, 3},
	} {
		h.wantWayBack(x, target)
	}
	h.damage("gen/x")
	h.run("warning: damaged: state vm1: the store holds damaged data: key \"/swtpm/vm1/gen/x\"", "swtpm-store", "--config", config, "--check")
	numbers, _ := h.listed(target...) // the oldest one does not become the newest
	h.damage("gen/" + strings.Repeat("0", 20-len(numbers[0])) + numbers[0])
	h.run("; generation "+numbers[0]+" cannot be restored", "swtpm-store", "--config", config, "--check")
	for _, words := range [][]string{
		append([]string{"swtpm", "state", "import", "--replace"}, append(slices.Clone(target), h.path("one.tpm"))...),
		append([]string{"swtpm", "state", "rollback", "--drop-volatile"}, target...),
	} {
		h.damage("item/x")
		h.run("!error: damaged: state vm1: ", "swtpm-store", "--config", config, "--check")
		if words[3] != "--replace" {
			numbers, _ := h.listed(target...)
			words = append(words, "--generation", numbers[len(numbers)-1])
		}
		h.run("", words[0], words[1:]...)
		h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	}
	h.damage("item/x")
	h.damage("head")
	h.etcdctl("del", "/swtpm/vm1/epoch")
	h.run("!error: damaged: state vm1: the store holds damaged data: key \"/swtpm/vm1/head\"", "swtpm-store", "--config", config, "--check")
	h.run("!warning: damaged: state vm1: the store holds damaged data: key \"/swtpm/vm1/epoch\": missing; the next start", "swtpm-store", "--config", config, "--check")
	h.run("Successfully authored", "swtpm-setup", "--tpm2", "--tpmstate", "store://vm1", "--keyfile", h.path("key"), "--overwrite")
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
}

// TestClusterDamagedWhileRunning checks that a TPM goes on after another program has damaged its head, and that
// one whose broker does not know any more what was stored keeps what it has acknowledged.
func TestClusterDamagedWhileRunning(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	h.broker.Kill(t)
	_ = os.Remove(h.path("lease"))
	h.write("store.toml", harness.Read(t, h.path("store.toml"))+"[lease]\nttl = \"10m\"\n") // no deadline passes on a busy machine
	h.startBroker()
	target := []string{"--tpmstate", "backend-uri=store://vm1", "--key", "file=" + h.path("key")}
	e, ch := h.tpm()
	ch.define(t)
	for want := uint64(2); want < 4; want++ {
		if want == 2 {
			h.etcdctl("del", "/swtpm/vm1/epoch")
		} else {
			h.damage("epoch")
		}
		h.damage("head")
		increment(t, ch)
		if n := ch.number(t); n != want {
			t.Errorf("the number is %d, want %d", n, want)
		}
	}
	if out := h.broker.Out.String(); strings.Count(out, "state vm1: its head was changed by another program, and is written again as generation ") != 2 {
		t.Errorf("the broker says: %s", out)
	}
	h.run("The store answers", "swtpm-store", "--config", h.path("store.toml"), "--check")
	h.damage("owner")
	increment(t, ch)
	h.damage("head")
	e.terminate(t) // which also repairs the owner
	h.run("The store answers", "swtpm-store", "--config", h.path("store.toml"), "--check")
	e, ch = h.tpm()
	if n := ch.number(t); n != 4 {
		t.Errorf("the number is %d after a start, want 4", n)
	}
	h.broker.Kill(t)
	h.damage("head")
	h.startBroker()
	if err := ch.bump(5); err == nil {
		t.Error("an increment over a damaged head, which the broker does not know")
	}
	if n := ch.number(t); n != 4 {
		t.Errorf("the number is %d after a refused increment, want 4", n)
	}
	if out := harness.Read(t, e.log); !strings.Contains(out, "swtpm state rollback --generation ") {
		t.Errorf("the log does not name the remedy: %s", out)
	}
	e.Kill(t)
	numbers, _ := h.listed(target...)
	newest := numbers[len(numbers)-1]
	harness.Await(t, "the broker to give up the state", func() bool {
		code, _, _ := h.try("swtpm", append([]string{"state", "rollback", "--drop-volatile", "--generation", newest}, target...)...)
		return code == 0
	})
	_, ch = h.tpm()
	if n := ch.number(t); n != 4 {
		t.Errorf("the number is %d after a rollback, want 4", n)
	}
}
