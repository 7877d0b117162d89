package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/syslog"
	"os"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/etcd"
	"github.com/swtpm-go/swtpm/internal/program"
)

// verifyTime limits the time for reading all states and their generations.
const verifyTime = 5 * time.Minute

// say prints findings, and reports whether TPMs cannot use the store because of one.
func say(found []driver.Finding) (bad bool) {
	for _, f := range found {
		level := "error"
		if f.Warning {
			level = "warning"
		}
		bad = bad || !f.Warning
		fmt.Println(program.PrintableLine(fmt.Sprintf("%s: %s: %s", level, f.Problem, f.Text)))
	}
	return bad
}

// errFaulty is the error of a store whose faults were printed.
var errFaulty = &program.ExitError{Code: 1, Silent: true, Err: errors.New("the store has faults")}

// examine prints whether the store answers, what is wrong with it, and which states are damaged.
func examine(parent context.Context, d *etcd.Store, mark, prefix string) error {
	ctx, cancel := context.WithTimeout(parent, 5*time.Second)
	defer cancel()
	found := append(d.Examine(ctx), restored(ctx, d, mark)...)
	bad := say(found)
	all, err := d.List(ctx)
	if bad && errors.Is(err, driver.ErrDenied) { // a line says that
		return errFaulty
	}
	if err != nil {
		return err
	}
	states := "states"
	if len(all) == 1 {
		states = "state"
	}
	fmt.Printf("The store answers; it has %d %s below %s.\n", len(all), states, cmp.Or(strings.TrimSuffix(prefix, "/"), "/"))
	ctx, cancel = context.WithTimeout(parent, verifyTime)
	defer cancel()
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
	}
	found, err = driver.Verify(ctx, d, names)
	bad = say(found) || bad
	if err != nil {
		return fmt.Errorf("not all states are verified: %w", err)
	}
	if bad {
		return errFaulty
	}
	return nil
}

// restored returns a finding if the store is older than this host has seen it, or is another store.
func restored(ctx context.Context, d *etcd.Store, mark string) []driver.Finding {
	before, err := broker.ReadMark(mark)
	if err != nil {
		return []driver.Finding{{Problem: driver.Restored, Warning: true, Text: fmt.Sprintf("a restored backup would not be noticed: %v", err)}}
	}
	now, err := d.Position(ctx) // after the mark was read, which a broker may move
	if err != nil {
		return nil
	}
	if err := broker.Restored(now, before); err != nil {
		return []driver.Finding{{Problem: driver.Restored, Text: err.Error()}}
	}
	return nil
}

// acceptRollback stores the present position of the store in the mark of this host, and logs the
// user who did that.
func acceptRollback(ctx context.Context, d *etcd.Store, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now, err := d.Position(ctx)
	if err != nil {
		return err
	}
	before, err := broker.ReadMark(mark)
	if err != nil {
		stderr{}.Errorf("the old mark cannot be read: %v", err)
	}
	if err := broker.WriteMark(mark, now); err != nil {
		return err
	}
	line := fmt.Sprintf("restored store accepted: revision %d of cluster %x below %q, where this host had seen %d of %x below %q (%s)",
		now.Revision, now.Cluster, now.Prefix, before.Revision, before.Cluster, before.Prefix, caller())
	if w, err := syslog.New(syslog.LOG_NOTICE|syslog.LOG_AUTHPRIV, "swtpm-store"); err == nil {
		err = w.Notice(line)
		_ = w.Close()
		if err != nil {
			stderr{}.Errorf("acceptance not in the system log: %v", err)
		}
	} else {
		stderr{}.Errorf("acceptance not in the system log: %v", err)
	}
	fmt.Println(program.PrintableLine(line))
	return nil
}

// caller names the user of this process and the one that logged in.
func caller() string {
	who := fmt.Sprintf("uid %d", os.Getuid())
	const unset = "4294967295"
	if text, err := os.ReadFile("/proc/self/loginuid"); err == nil {
		if login := strings.TrimSpace(string(text)); login != unset && login != "" {
			who += ", login uid " + login
		}
	}
	if user := os.Getenv("SUDO_USER"); user != "" {
		who += ", sudo of " + user
	}
	return who
}
