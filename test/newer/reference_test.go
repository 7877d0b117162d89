package newer_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reference returns the words that run the reference's program with the newer
// libraries.
func reference(t *testing.T) []string {
	t.Helper()
	words := newer(t)
	words[2] += ":" + filepath.Join(words[2], "swtpm")
	return append(words, filepath.Join(os.Getenv(rootVar), "root/usr/bin/swtpm"))
}

// ours returns the same for our program.
func ours(t *testing.T) []string { return append(newer(t), bin) }

// outcome is the result of a run of a program.
type outcome struct {
	stdout, stderr string
	code           int
}

// try runs words and args in dir.
func try(t *testing.T, dir string, env []string, words []string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(words[0], append(slices.Clone(words[1:]), args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%v: %v", cmd, err)
	} else if ok && exit.ExitCode() < 0 {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.String())
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// same checks that both programs print the same and end alike, each in an empty
// directory of its own where there is an empty directory st. It returns what the
// reference did.
func same(t *testing.T, env []string, args string) outcome {
	t.Helper()
	var out [2]outcome
	for i, words := range [][]string{reference(t), ours(t)} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "st"), 0o700); err != nil {
			t.Fatal(err)
		}
		out[i] = try(t, dir, env, words, strings.Fields(args)...)
	}
	if out[0].stdout != out[1].stdout || out[0].code != out[1].code {
		t.Errorf("swtpm %s\nreference: exit %d, %q\nours:      exit %d, %q\n%s",
			args, out[0].code, out[0].stdout, out[1].code, out[1].stdout, out[1].stderr)
	}
	return out[0]
}

// TestPrints compares what is printed about the library and the TPM, byte for
// byte.
func TestPrints(t *testing.T) {
	for _, v := range []string{"", " --tpm2"} {
		same(t, nil, "socket --print-profiles"+v)
		for _, flags := range []string{"1", "2", "4", "8", "0x10", "0x20", "0x40", "0x80", "0xff", "0x100", "-1", "4294967297", "x"} {
			for _, state := range []string{"", " --tpmstate dir=st"} {
				same(t, nil, fmt.Sprintf("socket%s%s --print-info %s", v, state, flags))
			}
		}
		for _, args := range []string{"", "--tpmstate dir=st", "--tpmstate dir=none", "--tpmstate mode=0600", "--tpmstate backend-uri=foo://x"} {
			same(t, nil, "socket --print-states --print-profiles "+args+v)
		}
	}
}

// TestCapabilities compares the line with the programs' capabilities, except for
// their versions and what came with 0.11.
func TestCapabilities(t *testing.T) {
	later := []string{"tpmstate-dir-backend-opt-backup", "tpmstate-dir-backend-opt-fsync", "cmdarg-pcap", "systemd-notify"}
	common := func(line string) string {
		for _, w := range later {
			line = strings.Replace(line, `, "`+w+`"`, "", 1)
		}
		before, _, ok := strings.Cut(line, `"version": "`)
		if !ok || !strings.HasSuffix(line, "\" }\n") {
			t.Errorf("not a line of capabilities: %q", line)
		}
		return before
	}
	for _, args := range [][]string{{"socket", "--print-capabilities"}, {"socket", "--tpm2", "--print-capabilities"}} {
		want, got := try(t, t.TempDir(), nil, reference(t), args...), try(t, t.TempDir(), nil, ours(t), args...)
		if common(want.stdout) != common(got.stdout) || got.code != 0 || got.stderr != "" {
			t.Errorf("%v\nreference: %q\nours:      %q, exit %d, %s", args, want.stdout, got.stdout, got.code, got.stderr)
		}
	}
}
