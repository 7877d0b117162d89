// Journal logs one message, for a test that plays the journal.
package main

import (
	"errors"
	"os"

	"github.com/swtpm-go/swtpm/internal/daemon"
)

func main() {
	l, err := daemon.OpenLog(daemon.LogOptions{})
	if err != nil {
		os.Exit(1)
	}
	l.WithError(errors.New("cause")).WithField("key", "value").Warn("hello")
}
