package e2e_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestMetrics checks that a TPM of a profile writes its numbers to a socket, and to a file
// that is removed with it.
func TestMetrics(t *testing.T) {
	p := startProfiled(t, "file = \"log\"\n[metrics]\nlisten = \"unix:metrics\"\nmode = \"0600\"\n")
	sock := filepath.Join(p.dir, "metrics")
	c := p.open(t, v20)
	c.ok(t, random20)
	c.ok(t, random20)
	c.ok(t, define20)
	conn := connect(t, sock)
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?s)^HTTP/1.0 200 OK\r\nContent-Type: application/openmetrics-text; .*# EOF\n$`,
		`(?m)^swtpm_build_info\{version="[0-9.]+",libtpms="0\.[0-9.]+",tpm="2.0",instance="vm1"\} 1$`,
		`(?m)^swtpm_on 1$`,
		`(?m)^swtpm_commands_total\{command="TPM2_GetRandom",code="0x17b",result="0x0"\} 2$`,
		`(?m)^swtpm_commands_total\{command="TPM2_NV_DefineSpace",code="0x12a",result="0x0"\} 1$`,
		`(?m)^swtpm_commands_total\{command="TPM2_Startup",code="0x144",result="0x0"\} 1$`,
		`(?m)^swtpm_command_duration_seconds_count 4$`,
		`(?m)^swtpm_store_duration_seconds_count\{item="permall"\} [1-9]`,
		`(?m)^swtpm_limited_commands_total 0$`,
		`(?m)^swtpm_store_failures_total\{item="permall"\} 0$`,
		`(?m)^swtpm_clients\{channel="data"\} 1$`,
		`(?m)^swtpm_connections_total\{channel="data"\} 1$`,
	} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if fi, err := os.Stat(sock); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	p.terminate(t)
	if _, err := os.Lstat(sock); err == nil {
		t.Error("the socket is there still")
	}

	file := filepath.Join(p.dir, "vm1.prom")
	p.write(t, "file = \"log\"\n[metrics]\nfile = \"vm1.prom\"\ninterval = 1\n")
	cmd := exec.Command(ours("swtpm"), "run", p.profile)
	p.Process = harness.Start(t, cmd)
	p.await(t, p.data)
	p.open(t, v20).ok(t, random20)
	if harness.Until(func() bool { b, _ := os.ReadFile(file); return strings.Contains(string(b), "TPM2_GetRandom") }) != nil {
		t.Errorf("the file has\n%s", harness.Read(t, file))
	}
	p.terminate(t)
	if names, err := filepath.Glob(filepath.Join(p.dir, "*.prom*")); len(names) != 0 || err != nil {
		t.Errorf("there is still %v, %v", names, err)
	}
}

// TestMetricsMistakes checks that errors in [metrics] name the line.
func TestMetricsMistakes(t *testing.T) {
	dir := harness.TempDir(t)
	file := filepath.Join(dir, "p.toml")
	for text, want := range map[string]string{
		"listen = \"tcp:127.0.0.1:1\"":      `6:1: [metrics] listen: invalid address tcp:127.0.0.1:1; must be "unix:PATH" or "systemd:NAME"`,
		"listen = \"unix:c\"":               `6:1: [metrics] listen: unix:` + dir + `/c is already a channel of the TPM; use another address`,
		"interval = 3":                      `5:2: [metrics]: incomplete; write one of listen, file`,
		"listen = \"unix:m\"\ninterval = 3": `7:1: [metrics] interval: valid only with file`,
		"listen = \"unix:m\"\nfile = \"f\"": `7:1: [metrics] file: conflicts with listen; write only one of listen, file`,
		"file = \"f\"\ninterval = 0":        `7:12: [metrics] interval: invalid value 0; must be `,
		"file = \"f\"\nevery = 3":           `7:1: [metrics] every: unknown key`,
	} {
		if err := os.WriteFile(file, []byte("[control]\nlisten = \"unix:c\"\n[tpmstate]\ndir = \"s\"\n[metrics]\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, said := run(t, "check", file); code != 1 || !strings.Contains(said, file+":"+want) {
			t.Errorf("%s: exit code %d, %q, want %q", text, code, said, want)
		}
	}
	text := "[control]\nlisten = \"unix:c\"\n[tpmstate]\ndir = \"s\"\ncreate = true\n[metrics]\nfile = \"none/f\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := run(t, "doctor", file); code != 1 || !strings.Contains(out, "none/f") {
		t.Errorf("doctor: exit code %d\n%s", code, out)
	}
}
