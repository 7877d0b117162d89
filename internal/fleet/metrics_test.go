package fleet

import (
	"encoding/json"
	"os"
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
		Channels: []metrics.Channel{{Name: "data", Clients: 1, Came: 2}}}
	return s.Text()
}

func TestMetrics(t *testing.T) {
	one, clients := uint64(1), 2
	now := time.Now()
	tpms := []TPM{
		{Name: "a\"\n", State: Running, Restart: RestartNeeded, Clients: &clients, Commands: &one, Generation: &one, Started: &now, Stored: &now, text: published()},
		{Name: "b", State: Failed, Restart: RestartNotNeeded, text: published()},
	}
	text := string(Metrics(tpms, nil, time.Second))
	for _, want := range []string{
		`swtpm_host_tpms{state="running"} 1`, `swtpm_host_restart_tpms{restart="needed"} 1`,
		`swtpm_tpm_restart_needed{name="a\"\n"} 1`, `swtpm_tpm_failed{name="b"} 1`,
		`swtpm_commands_total{name="b",command="TPM2_GetRandom",code="0x17b",result="0x0"} 3`, `swtpm_on{name="b"} 0`,
	} {
		if strings.Count(text, want+"\n") != 1 {
			t.Errorf("%q is not once in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "# TYPE swtpm_commands counter\n"); n != 1 || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%d types of one metric", n)
	}
}

// TestMetricsHostile checks that a file that no TPM writes adds nothing.
func TestMetricsHostile(t *testing.T) {
	clean := string(Metrics([]TPM{{Name: "a"}}, nil, 0))
	for _, text := range []string{
		"", "# EOF", "up 1\n# EOF\n", "# TYPE up gauge\nup 1\n# EOF\n", "# TYPE swtpm_on gauge\nswtpm_on 1\n",
		"# TYPE swtpm_on gauge\nswtpm_on 1 } x\n# EOF\n", "# TYPE swtpm_host_tpms gauge\nswtpm_host_tpms 9\n# EOF\n",
		"# TYPE swtpm_on gauge\nswtpm_on_other 1\n# EOF\n", "\x1b[2J\n# EOF\n",
	} {
		if got := string(Metrics([]TPM{{Name: "a", text: []byte(text)}}, nil, 0)); got != clean {
			t.Errorf("%q adds\n%s", text, got)
		}
	}
}

// TestDashboard checks that the dashboard is what Grafana reads, and that it and the alerts
// name only metrics that exist.
func TestDashboard(t *testing.T) {
	one, clients := uint64(1), 2
	now := time.Now()
	all := string(Metrics([]TPM{{Name: "a", Clients: &clients, Commands: &one, Generation: &one, Started: &now, Stored: &now, text: published()}}, nil, 0))
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^(swtpm_\w+)`).FindAllStringSubmatch(all, -1) {
		names = append(names, m[1])
	}
	raw, err := os.ReadFile("../../contrib/grafana/swtpm.json")
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
	rules, err := os.ReadFile("../../contrib/prometheus/swtpm.rules.yml")
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
