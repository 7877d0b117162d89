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

// self is this program, even if its file has been replaced.
const self = "/proc/self/exe"

// killWait is the time from SIGTERM to SIGKILL. The creation of a key of a TPM 1.2 cannot
// be cancelled.
const killWait = time.Minute

// limit returns how many processes may run at the same time.
func (v *vmOptions) limit() (int, error) {
	if v.jobs == "" {
		return runtime.GOMAXPROCS(0), nil
	}
	n, err := strconv.ParseUint(v.jobs, 10, 16)
	if err != nil || n == 0 {
		return 0, cli.Complain("--jobs: invalid number %q, expected 1 to 65535.", v.jobs)
	}
	return int(n), nil
}

// runMany manufactures each TPM in a process of its own, because a process has only one
// engine, and reports the result of each.
func (p *program) runMany(ctx context.Context, vms []vm, limit int, v *vmOptions) error {
	p.reserveStdout(v.register)
	var wg sync.WaitGroup
	failed := make([]error, len(vms))
	slots := make(chan bool, limit)
	for i, x := range vms {
		slots <- true
		wg.Go(func() {
			failed[i] = p.spawn(ctx, x.name, v)
			<-slots
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
	p.log.Infof("All %d TPMs exist.", len(vms))
	return nil
}

// spawn manufactures the TPM of one profile in a process of its own. The messages of that
// process are logged with the name of the profile.
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
	if v.register == "-" { // its stdout has only lines of JSON
		out.prefix, out.print = "", func(format string, args ...any) { p.log.print(p.Stdout, format, args...) }
	}
	cmd.Stdout, cmd.Stderr = out, err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killWait
	failed := cmd.Run()
	out.end()
	err.end()
	return failed
}

// lines is a Writer that prints each line with a prefix.
type lines struct {
	prefix string
	print  func(format string, args ...any)
	rest   []byte // an incomplete line
}

func (w *lines) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte{'\n'})
		if !ok {
			return len(b), nil
		}
		w.print("%s%s", w.prefix, line)
		w.rest = rest
	}
}

// end prints an incomplete last line.
func (w *lines) end() {
	if s := strings.TrimSpace(string(w.rest)); s != "" {
		w.print("%s%s", w.prefix, s)
	}
	w.rest = nil
}
