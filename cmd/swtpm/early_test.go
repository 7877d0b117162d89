package main

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm/early"
	"github.com/swtpm-go/swtpm/internal/config"
)

// TestEarlyDaemon checks that the constructor in C, which forks, and package config
// agree whether a command line asks for a daemon, with and without POSIXLY_CORRECT.
// For swtpm cuse, which nearly always is one, it forks too often.
func TestEarlyDaemon(t *testing.T) {
	words := []string{"-d", "--daemon", "--d", "--daem", "--daemons", "-td", "-dt", "-dp1", "-pd", "-p", "1", "-r", "-rd", "-R", "-Rd", "-f", "-hd",
		"--log", "--log=-d", "--log=file=x", "file=-d", "--", "-", "operand", "--tpm2", "--tpm", "-t", "--t", "--te", "--print-info", "--print-i=1", "--pr",
		"--print-capabilities", "--print-states", "--key", "--pid", "--pid=file=x", "--fd=1", "--fd", "--server", "--server=type=tcp", "-c", "-c/dev/x",
		"--chardev", "--vtpm-proxy", "-n", "-nd", "-M", "-M1", "-m", "1", "--maj", "--min=1", "--name=x", "--flags", "--flags=not-need-init",
		"--locality", "--migration", "--migration-k", "--migration-key", "--seccomp", "--profile", "--pcap", "--ctrl", "--ctrl=type=tcp,port=1",
		"--runas", "--chroot", "--daemon=x", "-v", "--version", "--help", "-h", "-x", "-xd", "--tpmstate=dir=/x", "--tpmstate=dir=/x", ""}
	asked := map[bool]int{}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		iface := []string{"socket", "chardev", "cuse"}[r.IntN(3)]
		args := []string{"--tpmstate=dir=/x"}
		if iface == "cuse" {
			args = append(args, "-nx")
		}
		for range r.IntN(6) {
			args = append(args, words[r.IntN(len(words))])
		}
		posix := ""
		if i%8 == 0 {
			posix = "1"
			os.Setenv("POSIXLY_CORRECT", posix)
		} else {
			os.Unsetenv("POSIXLY_CORRECT")
		}
		cfg, err := config.ClassicElsewhere(iface, args, os.Getenv)
		if err != nil || cfg.PrintInfo != 0 {
			continue // it ends before it is ready, forked or not
		}
		got := early.Daemon(append([]string{iface}, args...))
		if got != cfg.Daemon && (iface != "cuse" || cfg.Daemon) {
			t.Fatalf("swtpm %s %q, POSIXLY_CORRECT=%s: a daemon is asked for: %v, want %v", iface, args, posix, got, cfg.Daemon)
		}
		asked[got]++
	}
	if asked[true] < 100 || asked[false] < 100 {
		t.Errorf("of the command lines %d ask for a daemon, and %d do not: too few", asked[true], asked[false])
	}
}
