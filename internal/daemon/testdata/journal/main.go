// Journal logs one message, or as many as its argument says, for a test that
// plays the journal.
package main

import (
	"os"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/daemon"
)

func main() {
	l, err := daemon.OpenLog(daemon.LogOptions{})
	if err != nil {
		os.Exit(1)
	}
	defer l.Close()
	if len(os.Args) > 1 {
		n, _ := strconv.Atoi(os.Args[1])
		for i := range n {
			l.Infof("message %d", i)
			l.Dump("SWTPM_IO_Read:", []byte{1})
		}
		return
	}
	l.Notice(daemon.EventKind{ID: "0123456789abcdef0123456789abcdef", Name: "test"}, "value", "hello: cause")
}
