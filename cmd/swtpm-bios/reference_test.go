package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// reference runs swtpm_bios of swtpm.
func reference(t *testing.T, args []string, env ...string) outcome {
	t.Helper()
	path, err := exec.LookPath("swtpm_bios")
	if err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") == "1" {
			t.Fatal("swtpm_bios is not installed: install the package swtpm-tools")
		}
		t.Skip("swtpm_bios is not installed: install the package swtpm-tools")
	}
	cmd := exec.Command(path, args...)
	cmd.Args[0] = "swtpm_bios"
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// older replaces bytes of version 0.7.1 that later versions changed.
var older = strings.NewReplacer("TPM2_ImcrementalSelfTest", "TPM2_IncrementalSelfTest",
	"00000142000000010004", "0000014200000001000b") // SHA-1 became SHA-256

// TestEveryCommandLine compares commands, output and exit codes of both programs with each
// sequence of up to two of the options and some longer ones, on TPMs that accept every command,
// refuse every command, or are deactivated.
func TestEveryCommandLine(t *testing.T) {
	lines := [][]string{{"-ea", "-cs", "-u"}, {"-o", "-d", "-n"}, {"-n", "-d", "-c"}, {"-d", "-o", "-s", "-cs"}, {"--cs", "--u", "op"}}
	options := []string{"-c", "-s", "-d", "-n", "-o", "-cs", "-ea", "-u"}
	for _, a := range append(options, "") {
		for _, b := range append(options, "") {
			lines = append(lines, slices.DeleteFunc([]string{a, b}, func(s string) bool { return s == "" }))
		}
	}
	for _, kind := range []struct {
		name        string
		result      uint32
		deactivated bool
	}{{"well", 0, false}, {"refusing", 0x12345678, false}, {"deactivated", 0, true}} {
		f := newFake(t, result(kind.result, kind.deactivated))
		for _, line := range lines {
			for _, version := range []string{"", "--tpm2"} {
				args := append([]string{"--unix", f.path}, line...)
				if version != "" {
					args = append(args, version)
				}
				want := reference(t, args)
				wanted := strings.Split(older.Replace(strings.Join(f.commands(), "\n")), "\n")
				want.Stdout = older.Replace(want.Stdout)
				got := ours(args)
				sent := strings.Split(strings.Join(f.commands(), "\n"), "\n")
				if got != want || !slices.Equal(sent, wanted) {
					t.Errorf("%s TPM, swtpm_bios %q: %v, sent %q, want %v, %q", kind.name, args[2:], got, sent, want, wanted)
				}
			}
		}
	}
}

// TestMisuseLikeReference checks that both programs fail alike with invalid command lines and
// environments. Only the text of the usage differs.
func TestMisuseLikeReference(t *testing.T) {
	none := t.TempDir() + "/none"
	for _, tt := range []struct {
		args string
		env  []string
	}{
		{"-h", nil}, {"-h -bogus", nil}, {"--help", nil}, {"-bogus", nil}, {"-bogus=1 -h", nil}, {"--tcp", nil}, {"--t x", nil}, {"--tp", nil},
		{"-c=1", nil}, {"-cs=", nil}, {"--ct", nil}, {"-u -bogus -h", nil}, {"--unix " + none + " -bogus", nil},
		{"--tcp host:", nil}, {"--tcp h:x", nil}, {"--tcp x: -h", nil}, {"--tcp :", nil}, {"--tcp 127.0.0.1:1", nil}, {"--tcp ::1:1", nil},
		{"--unix " + none, nil}, {"--unix " + strings.Repeat("a", 108), nil}, {"--unix=", nil},
		{"--tpm-device " + none + " --unix /x", nil}, {"--unix /x --tcp 127.0.0.1:1", nil}, {"--tpm-device=", nil},
		{"--tpm-device /dev/null", nil}, {"-- -h", []string{"TPM_DEVICE=" + none}}, {"op -n op2", []string{"TPM_DEVICE=" + none}},
		{"", []string{"TPM_DEVICE="}},
		{"", []string{"TCSD_USE_TCP_DEVICE=", "TCSD_TCP_DEVICE_PORT=1"}},
		{"", []string{"TCSD_USE_TCP_DEVICE=1", "TCSD_TCP_DEVICE_PORT=1", "TCSD_TCP_DEVICE_HOSTNAME=127.0.0.1"}},
		{"", []string{"TCSD_USE_TCP_DEVICE=1", "TCSD_TCP_DEVICE_HOSTNAME="}},
		{"--tpm2 -n", []string{"TCSD_USE_TCP_DEVICE=1", "TCSD_TCP_DEVICE_PORT=1"}},
	} {
		got, want := ours(strings.Fields(tt.args), tt.env...), reference(t, strings.Fields(tt.args), tt.env...)
		got.Stdout, want.Stdout = kind(got.Stdout), kind(want.Stdout)
		if words := "Socket path is too long."; strings.HasPrefix(got.Stderr, words) { // ours has the path and the limit
			got.Stderr = words + "\n"
		}
		if got != want {
			t.Errorf("swtpm_bios %s with %q: %v, want %v", tt.args, tt.env, got, want)
		}
	}
}

// kind classifies the text s.
func kind(s string) string {
	if strings.HasPrefix(s, "TPM emulator BIOS emulator version ") && strings.Contains(s, "\nswtpm_bios [options]\n") {
		return fmt.Sprintf("usage, ends in a newline %v", strings.HasSuffix(s, "\n"))
	}
	return s
}
