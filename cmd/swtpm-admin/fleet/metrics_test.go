package fleet

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/metrics"
)

// published is the metrics of a TPM as it writes them.
func published() []byte {
	s := metrics.Sample{TPM: "2.0", Now: time.Now(), Started: time.Now(),
		Commands: []metrics.Command{{Name: "TPM2_GetRandom", Code: "0x17b", Count: 3}},
		Latency:  metrics.NewHistogram().Durations(),
		Stores:   []metrics.Stores{{Item: "permall", Took: metrics.NewHistogram().Durations()}},
		Channels: []metrics.Channel{{Name: "data", Clients: 1, Connections: 2}}}
	return s.Text()
}

// TestMetrics checks that the metrics of several TPMs are joined into valid text, with one TYPE
// line for each metric.
func TestMetrics(t *testing.T) {
	one, clients := uint64(1), 2
	now := time.Now()
	tpms := []TPM{
		{Name: "a\"\n", State: stateRunning, Restart: RestartNeeded, Clients: &clients, Commands: &one, Generation: &one, Started: &now, Stored: &now, text: published()},
		{Name: "b", State: stateFailed, Restart: RestartNotNeeded, text: published()},
		{Name: "c", State: stateRunning, Restart: RestartUnknown},
	}
	text := string(Metrics(tpms, nil, time.Second))
	for _, want := range []string{
		`swtpm_host_tpms{state="running"} 2`, `swtpm_host_restart_tpms{restart="unknown"} 1`, `swtpm_host_restart_tpms{restart="needed"} 1`,
		`swtpm_tpm_restart_needed{name="a\"\n"} 1`, `swtpm_tpm_failed{name="b"} 1`,
		`swtpm_commands_total{name="b",command="TPM2_GetRandom",code="0x17b",result="0x0"} 3`, `swtpm_on{name="b"} 0`,
	} {
		if strings.Count(text, want+"\n") != 1 {
			t.Errorf("%q is not once in\n%s", want, text)
		}
	}
	if strings.Contains(text, `swtpm_tpm_restart_needed{name="c"}`) {
		t.Errorf("it claims to know whether c needs a restart:\n%s", text)
	}
	if n := strings.Count(text, "# TYPE swtpm_commands counter\n"); n != 1 || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%d types of one metric", n)
	}
}

// TestMetricsHostile checks that a file that no TPM writes adds nothing.
func TestMetricsHostile(t *testing.T) {
	clean := string(Metrics([]TPM{{Name: "a"}}, nil, 0))
	on := func(rest string) string { return "# TYPE swtpm_on gauge\nswtpm_on" + rest + "\n# EOF\n" }
	valid := `a="} \\\"{,",_b2="é"} -1.5e-07`
	if got := string(Metrics([]TPM{{Name: "a", text: []byte(on("{" + valid))}}, nil, 0)); !strings.Contains(got, `swtpm_on{name="a",`+valid+"\n") {
		t.Errorf("a valid sample is missing in\n%s", got)
	}
	for _, text := range []string{
		"", "# EOF", "up 1\n# EOF\n", "# TYPE up gauge\nup 1\n# EOF\n", "# TYPE swtpm_on gauge\nswtpm_on 1\n",
		"# TYPE swtpm_on gauge\nswtpm_on 1 } x\n# EOF\n", "# TYPE swtpm_host_tpms gauge\nswtpm_host_tpms 9\n# EOF\n",
		"# TYPE swtpm_on gauge\nswtpm_on_other 1\n# EOF\n", "\x1b[2J\n# EOF\n",
		on("{} 1"), on(`{a="1" 1`), on(`{a="1"}x 1`), on(`{a="1",} 1`), on(`{1a="1"} 1`), on(`{a=1} 1`), on(`{a="""} 1`), on(`{a="\x"} 1`),
		on(`{a="1",a="2"} 1`), on(`{name="b"} 1`), on(`{le="1"} 1`), on(" 0x1p4"), on(" 1_0"), on(" NaN"), on(" +Inf"), on(" 1 2"), on("_total 1"),
		on(" 1\nswtpm_on 1"), on("{a=\"1\",b=\"2\"} 1\nswtpm_on{b=\"2\",a=\"1\"} 1"), on("{a=\"\xff\"} 1"), on("{a=\"\r\"} 1"),
		"# TYPE swtpm_on gauge\n# UNIT swtpm_on seconds\nswtpm_on 1\n# EOF\n", "# TYPE swtpm_on gauge\n# HELP swtpm_on \\x\nswtpm_on 1\n# EOF\n",
		"# TYPE swtpm_on gauge\nswtpm_on 1\n# TYPE swtpm_on gauge\n# EOF\n", "# TYPE swtpm_x histogram\nswtpm_x_bucket{le=\"x\"} 1\n# EOF\n",
	} {
		if got := string(Metrics([]TPM{{Name: "a", text: []byte(text)}}, nil, 0)); got != clean {
			t.Errorf("%q adds\n%s", text, got)
		}
	}
}

// TestMetricsKind checks that the file of a user's TPM does not determine the kind of a metric.
func TestMetricsKind(t *testing.T) {
	got := string(Metrics([]TPM{
		{Name: "a", Manager: "manual", UID: 1000, text: []byte("# TYPE swtpm_commands gauge\nswtpm_commands 1\n# EOF\n")},
		{Name: "b", Manager: "systemd", Unit: "swtpm@b.service", text: published()},
	}, nil, 0))
	if !strings.Contains(got, "# TYPE swtpm_commands counter\n") || strings.Contains(got, "swtpm_commands{") {
		t.Error(got)
	}
}

// TestReadOwned checks which metrics files are read.
func TestReadOwned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: chown")
	}
	path := filepath.Join(t.TempDir(), "m")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for owner, want := range map[int]bool{0: true, 100: true, 1000: false} {
		if err := os.Chown(path, owner, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := readOwned(path, 100); (err == nil) != want {
			t.Errorf("a file of %d for a process of 100: %v", owner, err)
		}
	}
	if _, err := readOwned("/dev/null", 100); !errors.Is(err, errOwner) {
		t.Errorf("a device: %v", err)
	}
}

// TestDashboard checks that the dashboard is what Grafana reads, and that it and the alerts
// name only metrics that exist.
func TestDashboard(t *testing.T) {
	one, clients := uint64(1), 2
	now := time.Now()
	all := string(Metrics([]TPM{{Name: "a", Clients: &clients, Commands: &one, Generation: &one, Started: &now, Stored: &now, Owner: &storeOwner{}, text: published()}}, nil, 0))
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^(swtpm_\w+)`).FindAllStringSubmatch(all, -1) {
		names = append(names, m[1])
	}
	raw, err := os.ReadFile("../../../contrib/grafana/swtpm.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title    string
		SchemaVersion int
		Templating    struct{ List []struct{ Name, Type string } }
		Panels        []struct {
			ID          int
			Type, Title string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 30 || len(d.Templating.List) == 0 || len(d.Panels) == 0 {
		t.Errorf("%+v", d)
	}
	var ids []int
	for _, p := range d.Panels {
		if slices.Contains(ids, p.ID) || p.Type == "" || p.Title == "" || p.GridPos.W+p.GridPos.X > 24 || p.GridPos.H <= 0 || len(p.Targets) == 0 {
			t.Errorf("panel %+v", p)
		}
		ids = append(ids, p.ID)
	}
	rules, err := os.ReadFile("../../../contrib/prometheus/swtpm.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`\bswtpm_\w+`).FindAllString(string(raw)+string(rules), -1)
	if len(used) < 15 {
		t.Errorf("only %d metrics are used", len(used))
	}
	for _, u := range used {
		if !slices.Contains(names, u) {
			t.Errorf("no TPM and no host publishes %s", u)
		}
	}
}
