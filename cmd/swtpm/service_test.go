package main

import (
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestStatus checks the line that systemctl status shows.
func TestStatus(t *testing.T) {
	unix := config.Endpoint{Kind: config.Unix, Path: "/c"}
	for _, tt := range []struct {
		s          emul.Status
		data, ctrl string
		want       string
	}{
		{emul.Status{}, channelStatus("data", config.Endpoint{}, 0), channelStatus("control", unix, 0),
			"TPM 2.0 is off; control unix:/c, 0 clients; 0 commands"},
		{emul.Status{On: true, Commands: 1, Stored: time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC)},
			channelStatus("data", config.Endpoint{}, 1), channelStatus("control", config.Endpoint{Kind: config.Systemd, Name: "ctrl"}, 1),
			"TPM 2.0 is on; data, 1 client; control systemd:ctrl, 1 client; 1 command; stored 2026-01-31 23:59:59 UTC"},
		{emul.Status{On: true, Commands: 1000000}, channelStatus("data", unix, 12), "",
			"TPM 2.0 is on; data unix:/c, 12 clients; 1000000 commands"},
	} {
		if got := status(tpm.V20, tt.s, tt.data, tt.ctrl); got != tt.want {
			t.Errorf("status(%+v) = %q, want %q", tt.s, got, tt.want)
		}
	}
}
