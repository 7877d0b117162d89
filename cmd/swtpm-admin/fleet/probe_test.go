package fleet

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
)

// TestSilentSockets checks that a control or data socket that never answers ends the upgrade
// before the TPM is restarted, and that the TPM is named.
func TestSilentSockets(t *testing.T) {
	for name, serve := range map[string]func(c net.Conn, channel string){
		"accepts nothing": nil,
		"says nothing": func(c net.Conn, _ string) {
			_, _ = io.Copy(io.Discard, c) // the garbage collector would close a connection that nothing uses
			c.Close()
		},
		"byte by byte": func(c net.Conn, channel string) {
			var b [4000]byte
			if channel == "data" {
				copy(b[:], "\x80\x01\x00\x00\x0f\x00") // a response of 3840 bytes
			}
			for i := range b {
				if _, err := c.Write(b[i : i+1]); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		},
	} {
		for _, channel := range []string{"control", "data"} {
			t.Run(name+" "+channel, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "s")
				l, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if serve != nil {
					go func() {
						for c, err := l.Accept(); err == nil; c, err = l.Accept() {
							go serve(c, channel)
						}
					}()
				}
				silentUpgrade(t, channel, path)
			})
		}
	}
}

// silentUpgrade upgrades two TPMs, of which the first one never answers on a channel.
func silentUpgrade(t *testing.T, channel, path string) {
	t.Helper()
	f, u := newUnits(t, 2, "")
	tpms := needed(t, f)
	cfg := &config.Config{}
	if at := (config.Endpoint{Kind: config.Unix, Path: path}); channel == "control" {
		cfg.Control.Listen = at
	} else {
		cfg.Interface.Type, cfg.Interface.Server = config.Socket, at
	}
	tpms[0].cfg, tpms[0].PID = cfg, os.Getpid()
	up := Upgrade{Host: f.Host, AnswerTimeout: 200 * time.Millisecond}
	r := up.Run(context.Background(), tpms)
	if len(r.Failed) != 1 || !strings.HasPrefix(r.Failed[0], "vm0: not restarted, because it does not answer: no answer within ") || len(r.Left) != 1 || len(u.restarts) != 0 {
		t.Errorf("%+v, restarts %q", r, u.restarts)
	}
}
