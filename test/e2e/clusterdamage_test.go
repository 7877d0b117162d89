package e2e_test

import "testing"

// TestClusterDamage checks that --check fails for a state of which a key is damaged, and that a copy of
// such a state does not count as a good one.
func TestClusterDamage(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	c := h.client()
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	h.run("Successfully authored", "swtpm-setup", vm1)
	for _, key := range []string{"item/tpm2-00.permall", "head", "epoch"} {
		at := "/swtpm/vm1/" + key
		old, err := c.Get(t.Context(), at)
		if err != nil || len(old.Kvs) != 1 {
			t.Fatalf("%s: %v, %d values", at, err, len(old.Kvs))
		}
		put := func(value string) {
			t.Helper()
			if _, err := c.Put(t.Context(), at, value); err != nil {
				t.Fatal(err)
			}
		}
		put("nonsense")
		h.run("!error: damaged: ", "swtpm-store", "--config", config, "--check")
		if key == "item/tpm2-00.permall" {
			h.run("!of use for an examination only; copy a stored generation: --generation N", "swtpm", "state", "pull", "--config", config, "vm1", h.path("copy"))
		}
		put(string(old.Kvs[0].Value))
		h.run("The store answers", "swtpm-store", "--config", config, "--check")
	}
}
