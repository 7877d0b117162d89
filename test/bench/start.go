package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// begun is a way in which a TPM starts, with the target of the wall time.
type begun struct {
	name   string
	target float64
	fresh  bool
	user   bool
	args   []string
}

// begins lists the ways. The files of the keys are in dir.
func begins(dir string) []begun {
	return []begun{
		{name: "existing state, root", target: 0.95},
		{name: "existing state, not root", target: 0.9, user: true},
		{name: "encrypted state, key", target: 1, args: []string{"--key", "mode=aes-256-cbc,format=hex,file=" + filepath.Join(dir, "key")}},
		{name: "encrypted state, passphrase", target: 1, args: []string{"--key", "mode=aes-256-cbc,kdf=pbkdf2,pwdfile=" + filepath.Join(dir, "passphrase")}},
		{name: "fresh state", fresh: true},
	}
}

// start measures the way from exec to the first response.
func (b *bench) start() error {
	for name, text := range map[string]string{"key": strings.Repeat("0123456789abcdef", 4), "passphrase": "correct horse"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, g := range begins(b.dir) {
		if g.user && os.Geteuid() != 0 {
			b.report.note("starts of an ordinary user: not measured, this is one")
			continue
		}
		var first, work, faults pairs
		for round := range b.starts {
			s, err := b.startPair(g, round)
			if err != nil {
				return err
			}
			first.add(millis(s[0].first), millis(s[1].first))
			work.add(millis(s[0].cpu), millis(s[1].cpu))
			faults.add(float64(s[0].faults), float64(s[1].faults))
		}
		name := "exec to first response, " + g.name
		b.report.add(row{Name: name, Unit: "ms", Target: g.target}, first, pairs{})
		b.report.add(row{Name: name + ": CPU", Unit: "ms"}, work, pairs{})
		b.report.add(row{Name: name + ": page faults"}, faults, pairs{})
	}
	if err := b.programs("exec to the parent's exit, --daemon", b.daemonize); err != nil {
		return err
	}
	return b.programs("--print-capabilities", b.capabilities)
}

// startPair starts and ends both; the second goes first in every other round.
func (b *bench) startPair(g begun, round int) (s [2]*server, err error) {
	var kinds [2]kind
	kinds[0], kinds[1] = b.kinds()
	for i := range kinds {
		at := (i + round) % 2
		k := kinds[at]
		k.args, k.user = g.args, g.user
		var dir string
		if g.fresh {
			dir, err = b.newDir("")
		} else {
			dir, err = b.existing(k)
		}
		if err != nil {
			return s, err
		}
		if s[at], err = b.launch(k, dir); err != nil {
			return s, fmt.Errorf("%s: %w", g.name, err)
		}
		b.stop(s[at])
	}
	return s, nil
}

// programs measures the wall time of f for both programs.
func (b *bench) programs(name string, f func(k kind) (time.Duration, error)) error {
	var kinds [2]kind
	kinds[0], kinds[1] = b.kinds()
	var wall pairs
	for round := range b.starts {
		var w [2]float64
		for i := range kinds {
			at := (i + round) % 2
			d, err := f(kinds[at])
			if err != nil {
				return fmt.Errorf("%s: %s: %w", kinds[at].name, name, err)
			}
			w[at] = millis(d)
		}
		wall.add(w[0], w[1])
	}
	b.report.add(row{Name: name, Unit: "ms", Target: 1}, wall, pairs{})
	return nil
}

// capabilities runs --print-capabilities, as libvirt does.
func (b *bench) capabilities(k kind) (time.Duration, error) {
	start := time.Now()
	out, err := exec.Command(k.program, "socket", "--tpm2", "--print-capabilities").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return time.Since(start), err
}

// daemonize starts a TPM with --daemon, returns the time until the parent has exited, and
// ends the TPM.
func (b *bench) daemonize(k kind) (time.Duration, error) {
	dir, err := b.existing(k)
	if err != nil {
		return 0, err
	}
	k.args = []string{"--daemon", "--pid", "file=pid"}
	line := k.argv()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir = dir
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	took := time.Since(start)
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return 0, err
	}
	var pid int
	if _, err := fmt.Fscan(bytes.NewReader(text), &pid); err != nil {
		return 0, err
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return 0, err
	}
	for end := time.Now().Add(stopWait); unix.Kill(pid, 0) == nil && time.Now().Before(end); {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // if it became our child
		sleep(time.Millisecond)
	}
	return took, nil
}

// connections measures how many times per second a client connects, sends a command, reads
// the response and disconnects.
func (b *bench) connections() error {
	var kinds [2]kind
	kinds[0], kinds[1] = b.kinds()
	var servers [2]*server
	for i, k := range kinds {
		dir, err := b.existing(k)
		if err != nil {
			return err
		}
		if servers[i], err = b.launch(k, dir); err != nil {
			return err
		}
		unix.Close(servers[i].data) // the reference has one client at a time
		servers[i].data = -1
	}
	var rate pairs
	for round := range b.rounds {
		var v [2]float64
		for i := range servers {
			at := (i + round) % 2
			start := time.Now()
			for range b.gapped {
				fd, err := servers[at].connect("d", time.Now())
				if err != nil {
					return err
				}
				_, err = measure(fd, random, 1, 0)
				if err = errors.Join(err, unix.Close(fd)); err != nil {
					return err
				}
			}
			v[at] = float64(b.gapped) / time.Since(start).Seconds()
		}
		rate.add(v[0], v[1])
	}
	b.report.add(row{Name: "connect, command, close", Unit: "/s", Target: 1, More: true}, rate, pairs{})
	for _, s := range servers {
		b.stop(s)
	}
	return nil
}

// withClients returns the number of threads while n data clients are connected and have sent
// a command each.
func (s *server) withClients(n int) (int, error) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range n {
		fd, err := s.connect("d", time.Now())
		if err != nil {
			return 0, err
		}
		fds = append(fds, fd)
		if _, err := measure(fd, random, 1, 0); err != nil {
			return 0, err
		}
	}
	return threads(s.pid)
}
