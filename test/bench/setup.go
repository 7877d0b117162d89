package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// manufactured are TPMs that swtpm_setup makes: what each is called, its options,
// and the target of the wall time.
var manufactured = []struct {
	name   string
	target float64
	args   []string
}{
	{"EK and platform certificates, RSA 2048", 0.12, []string{"--create-ek-cert", "--create-platform-cert", "--lock-nvram"}},
	{"EK and platform certificates, RSA 3072", 0, []string{"--create-ek-cert", "--create-platform-cert", "--rsa-keysize", "3072"}},
	{"no key and no certificate", 0, nil}, // what is left of the first row without them
	{"a P-384 key alone", 0, []string{"--create-spk", "--ecc"}},
}

// steps are ways to run our swtpm_setup, from which phases computes the cost of each part. The time of an RSA
// key varies more than the certificates cost, so those are compared with keys on curves.
var steps = [...][]string{
	nil,
	{"--createek"},
	{"--createek", "--ek1keyalgo", "secp256r1"},
	{"--create-ek-cert", "--ek1keyalgo", "secp256r1"},
	{"--create-ek-cert", "--create-platform-cert", "--ek1keyalgo", "secp256r1"},
}

// phases notes which part of our swtpm_setup takes how much processor time. conf names a CA
// that exists.
func (b *bench) phases(conf string) error {
	var cpu [len(steps)][]float64
	for range b.starts {
		for i, args := range steps {
			_, c, err := b.manufacture(filepath.Join(b.oursDir, "swtpm_setup"), conf, args)
			if err != nil {
				return err
			}
			cpu[i] = append(cpu[i], c)
		}
	}
	var at [len(steps)]float64
	for i := range at {
		at[i] = median(cpu[i])
	}
	b.report.note("our swtpm_setup, CPU by phase: start, TPM and store %.1f ms, keys RSA 2048 and P-384 %.1f ms, certificates of both EKs %.1f ms, platform certificate %.1f ms",
		at[0], at[1]-at[0], at[3]-at[2], at[4]-at[3])
	return nil
}

// setup measures swtpm_setup, each with its own swtpm_localca, in the directories of the
// emulators. The time of a key varies, so that a median needs many rounds.
func (b *bench) setup() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, dir := range []string{b.refDir, b.oursDir} {
		if _, err := os.Stat(filepath.Join(dir, "swtpm_setup")); err != nil {
			b.report.note("swtpm_setup: not measured: %v", err)
			return nil
		}
	}
	var confs [2]string
	for i, programs := range []string{b.refDir, b.oursDir} {
		dir, err := b.newDir("")
		if err != nil {
			return err
		}
		if confs[i], err = localCA(dir, filepath.Join(programs, "swtpm_localca")); err != nil {
			return err
		}
	}
	for n, m := range manufactured {
		var wall, cpu pairs
		for round := -1; round < b.starts; round++ { // the first round makes the CAs
			var w, c [2]float64
			for i := range 2 {
				at := (i + round + 2) % 2
				program := filepath.Join([2]string{b.refDir, b.oursDir}[at], "swtpm_setup")
				var err error
				if w[at], c[at], err = b.manufacture(program, confs[at], m.args); err != nil {
					return err
				}
			}
			if n > 0 || round >= 0 {
				wall.add(w[0], w[1])
				cpu.add(c[0], c[1])
			}
		}
		b.report.add(row{Name: "swtpm_setup, " + m.name, Unit: "ms", Target: m.target}, wall, pairs{})
		b.report.add(row{Name: "swtpm_setup, " + m.name + ": CPU", Unit: "ms"}, cpu, pairs{})
	}
	return b.phases(confs[1])
}

// manufacture makes one TPM and returns the wall time and the processor time of the program
// and its children, in ms. No server may
// be running.
func (b *bench) manufacture(program, conf string, args []string) (wall, cpu float64, err error) {
	dir, err := b.newDir("")
	if err != nil {
		return 0, 0, err
	}
	cmd := exec.Command(program, slices.Concat([]string{"--tpm2", "--tpm-state", dir, "--config", conf}, args)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	before, err := childTime()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", program, err, out.String())
	}
	wall = millis(time.Since(start))
	// The emulator of the reference continues after its parent has ended, and becomes our child.
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			break
		}
	}
	now, err := childTime()
	return wall, now - before, errors.Join(err, os.RemoveAll(dir))
}

// childTime is the time of the processor that children have taken which have been
// waited for, in ms.
func childTime() (float64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		return 0, err
	}
	return millis(time.Duration(u.Utime.Nano() + u.Stime.Nano())), nil
}

// localCA writes the configuration of a local CA in dir, and returns the path of
// the file for swtpm_setup.
func localCA(dir, tool string) (string, error) {
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{
		"localca.conf":    fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\n", dir),
		"localca.options": "--platform-manufacturer Debian\n--platform-version 2.1\n--platform-model QEMU\n",
		"setup.conf": fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
			tool, path("localca.conf"), path("localca.options")),
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return path("setup.conf"), nil
}
