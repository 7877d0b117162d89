package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestClusterStrays checks that a state next to which another program has stored more items than etcd
// removes in one transaction has a way back, that inspect shows what the store has, and that a rollback
// which loses nothing does not warn of lost changes.
func TestClusterStrays(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	c := h.client()
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	h.run("Successfully authored", "swtpm-setup", vm1)
	numbers, _ := h.listed(vm1)
	first := numbers[len(numbers)-1]
	e, ch := h.tpm()
	ch.define(t)
	e.terminate(t)
	numbers, _ = h.listed(vm1)
	newest := numbers[len(numbers)-1]
	const strays = 230
	for n := range strays {
		if _, err := c.Put(t.Context(), fmt.Sprintf("/swtpm/vm1/item/stray%d", n), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(t.Context(), "/swtpm/vm1/item/tpm2-00.volatilestate", "x"); err != nil {
		t.Fatal(err)
	}
	h.run("!swtpm state rollback --generation "+newest+" --drop-volatile --tpmstate", "swtpm-store", "--config", config, "--check")
	text := h.run("volatilestate: 1 bytes, damaged", "swtpm", "state", "inspect", vm1)
	if !strings.Contains(text, "bytes, damaged\n    problem: the cluster store holds damaged data") || strings.Contains(text, " 0 bytes") || strings.Contains(text, "savestate") {
		t.Errorf("inspect prints\n%s", text)
	}
	code, stdout, stderr := h.try("swtpm", "state", "rollback", "--generation", newest, "--drop-volatile", vm1)
	if code != 0 || !strings.Contains(stdout, "stored generation "+newest+" is restored") || strings.Contains(stderr, "are lost") {
		t.Errorf("rollback: code %d, %s%s", code, stdout, stderr)
	}
	items, err := c.Get(t.Context(), "/swtpm/vm1/item/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || items.Count != 1 {
		t.Errorf("the store has %d items, %v, want 1", items.Count, err)
	}
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	h.run("The store answers", "swtpm-store", "--config", config, "--check")
	if log := h.broker.Out.String(); !strings.Contains(log, "220 other items do not belong to the restored TPM either") {
		t.Errorf("the broker logs\n%s", log)
	}
	code, stdout, stderr = h.try("swtpm", "state", "rollback", "--generation", first, vm1)
	if lost := strings.Contains(stderr, "are lost"); code != 0 || !lost {
		t.Errorf("rollback to an older generation: code %d, %s%s, want a warning", code, stdout, stderr)
	}
}
