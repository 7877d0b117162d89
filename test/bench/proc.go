package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// onTasks calls f with the /proc directory of each thread of a process. A thread
// that ends meanwhile does not count.
func onTasks(pid int, f func(dir string) error) error {
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("process %d has ended", pid)
	}
	for _, dir := range list {
		if err := f(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// cpu is the processor time of all threads of a process, with the precision of the scheduler:
// stat has clock ticks only.
func cpu(pid int) (total time.Duration, err error) {
	err = onTasks(pid, func(dir string) error {
		n, err := number(filepath.Join(dir, "schedstat"), 0)
		total += time.Duration(n)
		return err
	})
	return total, err
}

// waits is how often a thread of the process gave up the processor to wait, and so how often it
// was woken.
func waits(pid int) (total int, err error) {
	err = onTasks(pid, func(dir string) error {
		n, err := field(filepath.Join(dir, "status"), "voluntary_ctxt_switches:")
		total += n
		return err
	})
	return total, err
}

func threads(pid int) (int, error) {
	return field(fmt.Sprintf("/proc/%d/status", pid), "Threads:")
}

// faults is the number of page faults of the process, of both kinds.
func faults(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseFaults(b)
}

// parseFaults reads a stat file: the fields after the name, which is in
// parentheses and may contain anything, are state, …; minflt is the 8th of them
// and majflt the 10th.
func parseFaults(stat []byte) (int, error) {
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 10 {
		return 0, fmt.Errorf("stat has only %d fields", len(f))
	}
	minor, err := strconv.Atoi(f[7])
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(f[9])
	return minor + major, err
}

// memory is what a process occupies, in kB.
type memory struct {
	pss     int // its share of what it shares, and what is its own
	private int // dirty and its own: given back only by ending it
}

// readMemory fails with fs.ErrPermission for a process that protects its memory,
// unless we are root.
func readMemory(pid int) (m memory, err error) {
	name := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	if m.pss, err = field(name, "Pss:"); err != nil {
		return m, err
	}
	m.private, err = field(name, "Private_Dirty:")
	return m, err
}

// field returns the number after a word at the start of a line.
func field(name, word string) (int, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%q has no %q", name, word)
}

// number returns the i-th number in a file.
func number(name string, i int) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) <= i {
		return 0, fmt.Errorf("%q is %q", name, b)
	}
	return strconv.ParseInt(f[i], 10, 64)
}
