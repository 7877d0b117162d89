package store_test

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// verb runs a program on a host and returns its output.
func verb(t *testing.T, h *lab.Host, words ...string) string {
	t.Helper()
	cmd := h.Command(append([]string{bin + "/" + words[0]}, words[1:]...)...)
	cmd.Env = append(cmd.Environ(), "SWTPM_STORE_SOCKET="+h.Path("socket"), "XDG_STATE_HOME="+h.Path("marks"))
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v: %s", words, err, failed.String())
	}
	return out.String()
}

var numberText = regexp.MustCompile(`generation (\d+)`)

// TestNumbers checks that a store, a record and an emergency copy have the same number of a state
// after each verb that stores, that each stored generation can be restored, and that a TPM that is
// imported over one with higher numbers has its own generations.
func TestNumbers(t *testing.T) {
	c := lab.NewCluster(t, 1)
	h := c.NewHost(t, bin, "host", "")
	h.Write("new", strings.Repeat("ab", 16))
	config, key := h.Path("store.toml"), "file="+h.Path("key")
	state := func(name string) string { return "backend-uri=store://" + name }
	pulls := 0
	agree := func(name, key string) string {
		t.Helper()
		inspect := numberText.FindStringSubmatch(verb(t, h, "swtpm", "state", "inspect", "--tpmstate", state(name), "--key", key))
		pulls++
		pull := numberText.FindStringSubmatch(verb(t, h, "swtpm-store", "pull", "--config", config, name, h.Path(fmt.Sprint("pull", pulls))))
		list := stored(verb(t, h, "swtpm", "state", "rollback", "--list", "--tpmstate", state(name), "--key", key))
		if len(inspect) == 0 || len(pull) == 0 || len(list) == 0 || inspect[1] != pull[1] || list[len(list)-1] != pull[1] {
			t.Fatalf("inspect says %q, pull %q, and the list is %v", inspect, pull, list)
		}
		return pull[1]
	}
	for _, name := range []string{"small", "large"} {
		i, _ := newTPM(t, h, name)
		for n := 0; name == "large" && n < 10; n++ {
			if _, err := persist(i, increment); err != nil {
				t.Fatal(err)
			}
		}
		stop(t, i)
		agree(name, key)
	}
	before := agree("large", key)
	verb(t, h, "swtpm", "state", "rekey", "--tpmstate", state("large"), "--key", key, "--new-key", "file="+h.Path("new"))
	after := agree("large", "file="+h.Path("new"))
	if before == after {
		t.Errorf("the generation is %s before and after rekey", before)
	}
	verb(t, h, "swtpm", "state", "rollback", "--generation", after, "--tpmstate", state("large"), "--key", "file="+h.Path("new"))
	agree("large", "file="+h.Path("new"))
	verb(t, h, "swtpm", "state", "export", "--tpmstate", state("small"), "--key", key, "--sealed", h.Path("archive"))
	verb(t, h, "swtpm", "state", "import", "--replace", "--tpmstate", state("large"), "--key", key, h.Path("archive"))
	first := agree("large", key)
	i, err := h.Acquire("large", harness.EventTimeout)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // of two generations that the store keeps, both are the new TPM's
		if _, err := persist(i, increment); err != nil {
			t.Fatal(err)
		}
	}
	stop(t, i)
	agree("large", key)
	list := stored(verb(t, h, "swtpm", "state", "rollback", "--list", "--tpmstate", state("large"), "--key", key))
	if slices.Contains(list, after) || len(list) != 2 {
		t.Errorf("after an import as generation %s and two stores, %v are stored", first, list)
	}
	verb(t, h, "swtpm", "state", "rollback", "--generation", list[0], "--tpmstate", state("large"), "--key", key)
	agree("large", key)
}

// stored returns the numbers in a list of stored generations: each line begins with one.
func stored(list string) (numbers []string) {
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 0 {
			numbers = append(numbers, f[0])
		}
	}
	return numbers
}
