package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// etcdctl runs a command of etcdctl at the member and returns its output.
func (h *clusterHost) etcdctl(words ...string) string {
	h.t.Helper()
	cmd := exec.Command("etcdctl", append([]string{"--endpoints=" + h.member.URL}, words...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("etcdctl %q: %v", words, err)
	}
	return string(out)
}

// listed returns the lines of swtpm state rollback --list, by the number and in order.
func (h *clusterHost) listed(target ...string) (numbers []string, lines map[string]string) {
	h.t.Helper()
	lines = map[string]string{}
	for line := range strings.Lines(h.run("", "swtpm", append([]string{"state", "rollback", "--list"}, target...)...)) {
		n := strings.Fields(line)[0]
		numbers, lines[n] = append(numbers, n), strings.TrimSpace(line)
	}
	return numbers, lines
}

// contents returns the stored generations of a state by key.
func (h *clusterHost) contents(state string) map[string]string {
	all := map[string]string{}
	for key := range strings.Lines(h.etcdctl("get", "--prefix", "--keys-only", "/swtpm/"+state+"/gen/")) {
		if key = strings.TrimSpace(key); key != "" {
			all[key] = h.etcdctl("get", "--print-value-only", key)
		}
	}
	return all
}

// wantKept checks that no generation in before was changed or removed.
func (h *clusterHost) wantKept(after string, before map[string]string) {
	h.t.Helper()
	now := h.contents("vm1")
	for key, value := range before {
		if now[key] != value {
			h.t.Errorf("after %s, %s has changed, or is missing", after, key)
		}
	}
}

// TestClusterLostItem checks that a state whose permanent item is missing in the store is refused
// by each program that could take it for a missing TPM, that each error names the remedy, and
// that the remedy works.
func TestClusterLostItem(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	vm1, config := h.path("vm1.toml"), h.path("store.toml")
	target := []string{"--tpmstate", "backend-uri=store://vm1", "--key", "file=" + h.path("key")}
	h.run("Successfully authored", "swtpm-setup", vm1)
	h.run("accepted as generation", "swtpm", "state", "accept", vm1)
	h.run("exported", "swtpm", "state", "export", "--sealed", vm1, h.path("archive"))
	h.run("it has 1 state below /swtpm", "swtpm-store", "--config", config, "--check")
	numbers, _ := h.listed(vm1)
	before, newest := h.contents("vm1"), numbers[len(numbers)-1]
	if n := h.etcdctl("del", "/swtpm/vm1/item/tpm2-00.permall"); strings.TrimSpace(n) != "1" {
		t.Fatalf("removed %q keys", n)
	}
	remedy := "swtpm state rollback --generation " + newest + " --tpmstate backend-uri=store://vm1 --key file=KEY; or copy it out: swtpm state pull --generation " + newest + " vm1 DIRECTORY"
	h.run("!"+remedy, "swtpm-store", "--config", config, "--check")
	h.run("!"+remedy, "swtpm", "doctor", vm1)
	h.run("!"+remedy, "swtpm-setup", vm1)
	h.run("!"+remedy, "swtpm-setup", "--tpm2", "--tpmstate", "store://vm1", "--keyfile", h.path("key"), "--not-overwrite")
	h.run("!"+remedy, "swtpm", "socket", "--tpm2", "--tpmstate", "backend-uri=store://vm1", "--key", "file="+h.path("key"),
		"--flags", "not-need-init,startup-clear", "--ctrl", "type=unixio,path="+h.path("ctrl"))
	h.run("problem: the cluster store holds damaged data", "swtpm", append([]string{"state", "inspect"}, target...)...)
	h.run("!already has a TPM 2.0", "swtpm", append(append([]string{"state", "import"}, target...), h.path("archive"))...)
	h.wantKept("refusals", before)
	again, _ := h.listed(target...)
	if !slices.Equal(again, numbers) {
		t.Errorf("%v are listed, and were %v", again, numbers)
	}
	h.run("copied to", "swtpm", "state", "pull", "--config", config, "--generation", newest, "vm1", h.path("pulled"))
	h.run("stored generation "+newest+" is restored", "swtpm", append([]string{"state", "rollback", "--generation", newest}, target...)...)
	h.wantKept("rollback", before)
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	h.run("The store answers", "swtpm-store", "--config", config, "--check")
	h.run("leaving it unchanged", "swtpm-setup", vm1)
	h.etcdctl("del", "/swtpm/vm1/item/tpm2-00.permall")
	h.run("imported", "swtpm", append(append([]string{"state", "import", "--replace"}, target...), h.path("archive"))...)
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	h.etcdctl("del", "/swtpm/vm1/item/tpm2-00.permall")
	h.run("Successfully authored", "swtpm-setup", "--tpm2", "--tpmstate", "store://vm1", "--keyfile", h.path("key"), "--overwrite")
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	h.wantKept("import and overwrite", before)
}

// TestClusterNumbersGrow checks that no verb replaces a stored generation: after a rekey with a
// rollback under the old key, a new TPM, and an import of another TPM with lower numbers, all
// stored generations remain, and the list marks those that belong to another TPM or need another
// key.
func TestClusterNumbersGrow(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	h.write("new", strings.Repeat("ab", 16))
	vm1, where := h.path("vm1.toml"), []string{"--tpmstate", "backend-uri=store://vm1", "--key"}
	under := func(key string) []string { return append(slices.Clone(where), "file="+h.path(key)) }
	h.run("Successfully authored", "swtpm-setup", vm1)
	first, _ := h.listed(under("key")...)
	h.run("", "swtpm", append(append([]string{"state", "rekey"}, under("key")...), "--new-key", "file="+h.path("new"))...)
	before := h.contents("vm1")
	numbers, lines := h.listed(under("new")...)
	if len(numbers) != len(first)+1 || strings.Count(fmt.Sprint(lines), "(needs another key)") != len(first) {
		t.Errorf("after a rekey the list is %q", lines)
	}
	h.run("stored generation "+first[0]+" is restored", "swtpm", append([]string{"state", "rollback", "--generation", first[0]}, under("key")...)...)
	h.run("accepted as generation", "swtpm", append([]string{"state", "accept"}, under("key")...)...)
	h.wantKept("a rollback with the old key", before)
	before = h.contents("vm1")
	h.run("Successfully authored", "swtpm-setup", "--tpm2", "--tpmstate", "store://vm1", "--keyfile", h.path("key"), "--overwrite")
	h.wantKept("swtpm_setup --overwrite", before)
	numbers, lines = h.listed(under("key")...)
	for i, n := range numbers {
		if other := i < len(numbers)-1; other != strings.Contains(lines[n], "(another TPM)") {
			t.Errorf("after swtpm_setup --overwrite the list has %q", lines[n])
		}
	}
	h.run("!belongs to TPM", "swtpm", append([]string{"state", "rollback", "--generation", first[0]}, under("key")...)...)
	h.run("", "swtpm", append(append([]string{"state", "rekey"}, under("key")...), "--new-key", "file="+h.path("new"))...)
	h.run("!belongs to TPM", "swtpm", append([]string{"state", "rollback", "--generation", first[0]}, under("key")...)...)
	before = h.contents("vm1")
	h.run("Successfully authored", "swtpm-setup", "--tpm2", "--tpmstate", "store://small", "--keyfile", h.path("key"))
	h.run("exported", "swtpm", "state", "export", "--sealed", "--tpmstate", "backend-uri=store://small", "--key", "file="+h.path("key"), h.path("archive"))
	h.run("imported", "swtpm", append(append([]string{"state", "import", "--replace"}, under("key")...), h.path("archive"))...)
	h.wantKept("an import of another TPM", before)
	if all, _ := h.listed(under("key")...); len(all) != len(before)+1 {
		t.Errorf("%v are stored, want the %d generations from before the import and more", all, len(before))
	}
}

// TestClusterPrefix checks that no TPM starts with a broker whose prefix was changed.
func TestClusterPrefix(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	h.run("Successfully authored", "swtpm-setup", h.path("vm1.toml"))
	text, err := os.ReadFile(h.path("store.toml"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("store.toml", "prefix = \"/swtmp\"\n"+string(text))
	h.restartBroker()
	const want = `!prefix is "/swtmp", and this host has used "/swtpm"; correct prefix in store.toml`
	h.run(want, "swtpm-store", "--config", h.path("store.toml"), "--check")
	h.run(want, "swtpm-setup", h.path("vm1.toml"))
	h.run(`below "/swtmp", where this host had seen`, "swtpm-store", "--config", h.path("store.toml"), "--accept-rollback")
	h.run("it has 0 states below /swtmp", "swtpm-store", "--config", h.path("store.toml"), "--check")
}
