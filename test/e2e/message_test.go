package e2e_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestPortZero checks that the ports which the kernel chooses are logged.
func TestPortZero(t *testing.T) {
	t.Parallel()
	p := harness.Start(t, exec.Command(ours("swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+harness.TempDir(t),
		"--ctrl", "type=tcp,port=0", "--server", "type=tcp,port=0"))
	for _, channel := range []string{"control", "data"} {
		line := regexp.MustCompile(`(?m)^swtpm: ` + channel + ` channel: listening on tcp:(127\.0\.0\.1:[1-9][0-9]*)$`)
		var addr []string
		if err := harness.Until(func() bool {
			addr = line.FindStringSubmatch(p.Out.String())
			return addr != nil || p.Ended()
		}); err != nil || addr == nil {
			t.Fatalf("%s channel: no port in\n%s", channel, p.Out.String())
		}
		c, err := net.Dial("tcp", addr[1])
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}

// TestUselessStart checks what is said at the start of a TPM that no client can use,
// and that nothing is said of one that is fine.
func TestUselessStart(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("n", 120)
	for i, c := range []struct {
		args []string
		env  string
		want string // "" for nothing
	}{
		{args: []string{"--server", "type=unixio,path=" + at("d0")}, want: "no control channel and no not-need-init: no client can power this TPM on"},
		{args: []string{"--server", "type=unixio,path=" + at("d1"), "--flags", "not-need-init"}},
		{args: []string{}, want: "no channel: no client can reach this TPM; give --ctrl or --server"},
		{args: []string{"--ctrl", "type=unixio,path=" + at("c3"), "--tpmstate", "backend-uri=rbd:pool/image"}, want: "write dir://PATH, file://PATH for a file"},
		{args: []string{"--ctrl", "type=unixio,path=" + at("c4"), "--tpmstate", "backend-uri=iscsi://host/lun"}, want: "write dir://PATH, file://PATH for a file"},
		{args: []string{"--ctrl", "type=unixio,path=" + at("c5")}, env: "/" + long, want: `"/` + long + `" is too long for a Unix socket: 121 bytes, the limit is 107`},
		{args: []string{"--ctrl", "type=unixio,path=" + at("c6")}},
	} {
		state := harness.TempDir(t)
		log := at("log" + string(rune('0'+i)))
		cmd := exec.Command(ours("swtpm"), append([]string{"socket", "--tpm2", "--log", "level=2,file=" + log, "--tpmstate", "dir=" + state}, c.args...)...)
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+c.env)
		p := harness.Start(t, cmd)
		// At level 2 the log ends its start with what the sandbox has left.
		if err := harness.Until(func() bool { return p.Ended() || strings.Contains(harness.Read(t, log), "sandbox: ") }); err != nil || p.Ended() {
			t.Fatalf("%q: %v\n%s%s", c.args, err, p.Out.String(), harness.Read(t, log))
		}
		got := harness.Read(t, log)
		if c.want != "" && strings.Count(got, c.want) != 1 || c.want == "" && strings.Contains(got, "no c") || strings.Contains(got, "accessible; create the directory") {
			t.Errorf("%q: log, with %q expected:\n%s", c.args, c.want, got)
		}
		p.Kill(t)
	}
}
