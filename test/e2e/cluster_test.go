package e2e_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// run runs one of our programs, and checks that it succeeds and that its output contains text, or
// that it fails with text if text begins with "!".
func (h *clusterHost) run(text, name string, args ...string) string {
	h.t.Helper()
	code, stdout, stderr := h.try(name, args...)
	want, fails := strings.CutPrefix(text, "!")
	if (code != 0) != fails || !strings.Contains(stdout+stderr, want) {
		h.t.Errorf("%s %q: code %d, %s%s, want %q", name, args, code, stdout, stderr, text)
	}
	return stdout
}

// try runs one of our programs.
func (h *clusterHost) try(name string, args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	cmd := exec.Command(ours(name), args...)
	cmd.Env = append(os.Environ(), h.env()...)
	return runCmd(h.t, cmd)
}

// TestClusterVerbs checks the verbs of swtpm state with a TPM in a cluster store, which a profile
// manufactures.
func TestClusterVerbs(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	vm1 := h.path("vm1.toml")
	named := func(name string) []string {
		return []string{"--tpmstate", "backend-uri=store://" + name, "--key", "file=" + h.path("key")}
	}
	h.run("Successfully authored", "swtpm-setup", vm1)
	h.run("leaving it unchanged", "swtpm-setup", vm1)
	h.run("key fits", "swtpm", "state", "inspect", vm1)
	h.run("ok (permall)", "swtpm", "state", "verify", vm1)
	h.run("accepted as generation", "swtpm", "state", "accept", vm1)
	h.run("reset to 0", "swtpm", "state", "reset-lockout", vm1)
	h.run("exported", "swtpm", "state", "export", "--sealed", vm1, h.path("archive"))
	h.run("imported", "swtpm", append(append([]string{"state", "import"}, named("vm2")...), h.path("archive"))...)
	h.run("Successfully authored", "swtpm", "state", "clone", "--key", "file="+h.path("key"), "store://vm1", "store://vm3", "--", "--keyfile", h.path("key"))
	h.run("Successfully authored", "swtpm", "state", "clone", "--key", "file="+h.path("key"), "store://vm1", h.profile("vm4", "file = \""+h.path("key")+"\""))
	for _, name := range []string{"vm2", "vm3", "vm4"} {
		h.run("ok (permall)", "swtpm", append([]string{"state", "verify"}, named(name)...)...)
	}
	var generations []string
	host, _ := os.Hostname()
	for line := range strings.Lines(h.run("", "swtpm", "state", "rollback", "--list", vm1)) {
		words := strings.Fields(line) // number, time, host, program
		at, err := time.Parse(time.RFC3339, words[1])
		if since := time.Since(at); err != nil || since < -time.Second || since > time.Hour || words[2] != host || !strings.HasPrefix(words[3], "swtpm") {
			t.Errorf("the list has the line %q", line)
		}
		generations = append(generations, words[0])
	}
	if len(generations) < 2 {
		t.Fatalf("stored generations %q, want several", generations)
	}
	for _, n := range generations { // each one is filed under the generation of its record
		h.run("stored generation "+n+" is restored", "swtpm", "state", "rollback", "--generation", n, vm1)
	}
	h.run("!is not stored", "swtpm", "state", "rollback", "--generation", "99999", vm1)
	h.run("copied to", "swtpm", "state", "pull", "--config", h.path("store.toml"), "vm1", h.path("pulled"))
	h.member.Snapshot(t, h.path("snapshot"))
	h.run("copied to", "swtpm", "state", "pull", "--snapshot", h.path("snapshot"), "store://vm1", h.path("from-snapshot"))
	for _, dir := range []string{"pulled", "from-snapshot"} {
		h.run("ok (permall)", "swtpm", "state", "verify", "--tpmstate", "dir="+h.path(dir), "--key", "file="+h.path("key"))
	}
	h.refusePlain(named)
	h.run("!already exists", "swtpm", "state", "pull", "--config", h.path("store.toml"), "vm1", h.path("pulled"))
	h.run("it has 5 states", "swtpm-store", "--config", h.path("store.toml"), "--check")
}

// profile writes a profile without [manufacture] of the state with that name, and returns its path.
func (h *clusterHost) profile(name, key string) string {
	h.write(name+".toml", "tpm = \"2.0\"\n[control]\nlisten = \"unix:"+h.path(name+".sock")+"\"\n[tpmstate]\nstore = \""+name+"\"\n[key]\n"+key+"\n")
	return h.path(name + ".toml")
}

// refusePlain checks that no verb stores a plain state in the store, unless that is allowed.
func (h *clusterHost) refusePlain(named func(name string) []string) {
	const needs = "a state in a cluster store needs a key, because the store could read it; give --key"
	h.run("!"+needs+", or --tpmstate allow-plain", "swtpm", "state", "rekey", "--no-key", h.path("vm1.toml"))
	h.run("key fits", "swtpm", "state", "inspect", h.path("vm1.toml"))
	h.run("exported", "swtpm", "state", "export", "--plain", h.path("vm1.toml"), h.path("plain"))
	h.run("!"+needs, "swtpm", "state", "import", "--tpmstate", "backend-uri=store://vm5", h.path("plain"))
	h.run("!"+needs+"file", "swtpm", "state", "clone", "--plain", "--key", "file="+h.path("key"), "store://vm1", "store://vm5")
	h.run("imported", "swtpm", "state", "import", "--tpmstate", "backend-uri=store://vm5,allow-plain", h.path("plain"))
	h.run("the stored generations in the cluster store", "swtpm", "state", "rekey", "--new-key", "file="+h.path("key"), "--tpmstate", "backend-uri=store://vm5")
	h.run("ok (permall)", "swtpm", append([]string{"state", "verify"}, named("vm5")...)...)
}

// TestClusterOwned checks that the errors of a state in use name its owner, and that a store from an
// old backup is refused until it is accepted.
func TestClusterOwned(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	vm1 := h.path("vm1.toml")
	h.run("Successfully authored", "swtpm-setup", vm1)
	cmd := exec.Command(ours("swtpm"), "socket", "--tpm2", "--tpmstate", "backend-uri=store://vm1", "--key", "file="+h.path("key"),
		"--flags", "not-need-init,startup-clear", "--ctrl", "type=unixio,path="+h.path("ctrl"))
	cmd.Env = append(os.Environ(), h.env()...)
	p := harness.Start(t, cmd)
	harness.Await(t, "the TPM", func() bool { return p.Listens(h.path("ctrl")) })
	h.run("", "swtpm-ioctl", "--unix", h.path("ctrl"), "-c") // answered when the TPM is on
	h.run(`!owned by host "host-a" since `, "swtpm", "state", "verify", vm1)
	h.run("!, epoch 2; stop the TPM there", "swtpm", "doctor", vm1)
	h.run("!two copies would run", "swtpm", "state", "pull", "--config", h.path("store.toml"), "vm1", h.path("pulled"))
	h.run("copied to", "swtpm", "state", "pull", "--force", "--endpoint", h.member.URL, "vm1", h.path("pulled"))
	p.Kill(t)
	h.write("mark", `{"cluster":1,"revision":1000000}`)
	h.run("!and this host has seen cluster 1; first check endpoints and prefix", "swtpm-store", "--config", h.path("store.toml"), "--check")
	h.run("restored store accepted", "swtpm-store", "--config", h.path("store.toml"), "--accept-rollback")
	h.run("The store answers", "swtpm-store", "--config", h.path("store.toml"), "--check")
}

// TestClusterOwnedOnce checks that the doctor names the owner of a state in use once, and draws
// no other conclusion from it, also if the identity of the TPM is locked on this host.
func TestClusterOwnedOnce(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	settings, _ := host(t, "warn")
	wrap := onHost(t, settings)
	vm1 := h.path("vm1.toml")
	h.run("Successfully authored", "swtpm-setup", vm1)
	wrapped := func(args ...string) *exec.Cmd {
		cmd := exec.Command(wrap[0], append(wrap[1:len(wrap):len(wrap)], args...)...)
		cmd.Env = append(os.Environ(), h.env()...)
		return cmd
	}
	p := harness.Start(t, wrapped(ours("swtpm"), "run", vm1))
	harness.Await(t, "the TPM", func() bool { return p.Listens(h.path("vm1.sock")) })
	mustRun(t, ours("swtpm-ioctl"), "--unix", h.path("vm1.sock"), "-i")
	code, out, _ := runCmd(t, wrapped(ours("swtpm"), "doctor", vm1))
	if code != 1 || strings.Count(out, "owned by host") != 1 || strings.Contains(out, "error: start:") || strings.Contains(out, "does not start with libtpms") {
		t.Errorf("code %d:\n%s", code, out)
	}
}
