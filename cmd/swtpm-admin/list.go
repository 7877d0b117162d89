package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/fleet"
	"github.com/swtpm-go/swtpm/internal/program"
)

// watchEvery is the time between two listings of --watch.
const watchEvery = 2 * time.Second

// listing is the JSON of the verb.
type listing struct {
	TPMs  []fleet.TPM `json:"tpms"`
	Notes []string    `json:"notes,omitempty"` // sources that did not answer
}

func listVerb(f *pflag.FlagSet) action {
	asJSON := f.Bool("json", false, "print JSON")
	watch := f.Bool("watch", false, "list again every two seconds; on a terminal, redraw")
	quick := f.Bool("no-doctor", false, "do not run swtpm doctor for TPMs that are off")
	return func(ctx context.Context, patterns []string) error {
		if err := fleet.CheckPatterns(patterns); err != nil {
			return &program.ExitError{Code: 2, Err: err}
		}
		host, stop := openHost(ctx)
		defer stop()
		if *quick || *watch {
			host.Doctor = nil
		}
		for {
			l := collect(ctx, host, patterns)
			if len(l.TPMs) == 0 && len(patterns) > 0 && !*watch {
				return l.nothing(patterns)
			}
			text, err := l.text(*asJSON)
			if err != nil {
				return err
			}
			if *watch && terminal(os.Stdout) {
				const clear = "\x1b[H\x1b[2J"
				text = clear + text
			}
			if _, err := io.WriteString(os.Stdout, text); err != nil {
				return err
			}
			if !*watch {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(watchEvery):
			}
		}
	}
}

// openHost returns this host, with systemd if it answers.
func openHost(ctx context.Context) (h *fleet.Host, stop func()) {
	h = fleet.OwnHost()
	units, stop, err := fleet.Systemd(ctx)
	if err != nil {
		return h, stop
	}
	h.Units = units
	return h, stop
}

// collect lists the TPMs that match the patterns.
func collect(ctx context.Context, h *fleet.Host, patterns []string) listing {
	all, notes := h.Collect(ctx)
	l := listing{fleet.SelectLocations(all, patterns), notes}
	if l.TPMs == nil {
		l.TPMs = []fleet.TPM{}
	}
	if h.Units == nil {
		l.Notes = append(l.Notes, "systemd does not answer: units are missing from the list")
	}
	return l
}

// nothing returns the error for patterns that no TPM matches. It names the sources that did not
// answer, because a TPM may be missing because of them.
func (l listing) nothing(patterns []string) error {
	return fmt.Errorf("list: %s", strings.Join(append([]string{"no TPM matches " + strings.Join(patterns, " ")}, l.Notes...), "; "))
}

// text returns the listing as JSON or as a table.
func (l listing) text(asJSON bool) (string, error) {
	if asJSON {
		b, err := json.MarshalIndent(l, "", "  ")
		return string(b) + "\n", err
	}
	text := fleet.Table(l.TPMs, time.Now())
	for _, n := range l.Notes {
		text += fmt.Sprintf("note: %s\n", program.PrintableLine(n))
	}
	return text, nil
}

// terminal reports whether f is a terminal.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
