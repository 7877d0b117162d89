package setup

import (
	"bytes"
	"context"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// self is this program, also when its file was replaced meanwhile.
const self = "/proc/self/exe"

// killWait is how long a process has from SIGTERM until it is killed: a key of a
// TPM 1.2 is made to its end.
const killWait = time.Minute

// limit is how many processes run at once.
func (v *vmOptions) limit() (int, error) {
	if v.jobs == "" {
		return runtime.GOMAXPROCS(0), nil
	}
	n, err := strconv.ParseUint(v.jobs, 10, 16)
	if err != nil || n == 0 {
		return 0, cli.Complain("--jobs: %q is not a number from 1 to 65535.", v.jobs)
	}
	return int(n), nil
}

// runMany manufactures one TPM in each process, for there is one engine in a
// process, and tells of each.
func (p *program) runMany(ctx context.Context, vms []vm, limit int, v *vmOptions) error {
	p.linesOnly(v.register)
	var wg sync.WaitGroup
	failed := make([]error, len(vms))
	places := make(chan bool, limit)
	for i, x := range vms {
		places <- true
		wg.Go(func() {
			failed[i] = p.spawn(ctx, x.name, v)
			<-places
		})
	}
	wg.Wait()
	bad := 0
	for i, err := range failed {
		if err != nil {
			bad++
			p.log.Errorf("%s: failed: %v", vms[i].name, err)
		}
	}
	if bad > 0 {
		p.log.Errorf("%d of %d TPMs failed.", bad, len(vms))
		return errReported
	}
	p.log.Infof("All of %d TPMs are there.", len(vms))
	return nil
}

// spawn manufactures the TPM of one profile in a process of its own, whose
// messages come with the profile's name before them.
func (p *program) spawn(ctx context.Context, name string, v *vmOptions) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	args := []string{needed}
	if v.register != "" {
		args = append(args, "--inventory", v.register)
	}
	cmd := exec.CommandContext(ctx, self, append(args, "--", name)...)
	cmd.Args[0] = p.Name
	out, err := &lines{name + ": ", p.log.Infof, nil}, &lines{name + ": ", p.log.Errorf, nil}
	if v.register == "-" { // all that comes there is lines of JSON
		out.prefix, out.tell = "", func(format string, args ...any) { p.log.print(p.Stdout, format, args...) }
	}
	cmd.Stdout, cmd.Stderr = out, err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killWait
	failed := cmd.Run()
	out.end()
	err.end()
	return failed
}

// lines tells what is written to it, line by line.
type lines struct {
	prefix string
	tell   func(format string, args ...any)
	rest   []byte // the beginning of a line
}

func (w *lines) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte{'\n'})
		if !ok {
			return len(b), nil
		}
		w.tell("%s%s", w.prefix, line)
		w.rest = rest
	}
}

func (w *lines) end() {
	if s := strings.TrimSpace(string(w.rest)); s != "" {
		w.tell("%s%s", w.prefix, s)
	}
	w.rest = nil
}
