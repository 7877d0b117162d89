package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAs checks that the kernel gives f the rights of the other user, and that no other
// code has them, not even later on the same thread.
func TestAs(t *testing.T) {
	needRoot(t)
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ran := false
		err := As("65534", func() {
			ran = true
			if r, e, s := unix.Getresuid(); r != 65534 || e != 65534 || s != 65534 {
				t.Errorf("the user ids are %d, %d, %d", r, e, s)
			}
			if err := unix.Access(secret, unix.R_OK); !errors.Is(err, unix.EACCES) {
				t.Errorf("access to a file of root = %v", err)
			}
		})
		if err != nil || !ran {
			t.Fatalf("As = %v, f ran: %v", err, ran)
		}
		if unix.Geteuid() != 0 || unix.Access(secret, unix.R_OK) != nil {
			t.Fatal("the caller has become another user")
		}
	}
	for end := time.Now().Add(time.Minute); hasThreadOf65534(t); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a thread is still user 65534")
		}
	}
}

// hasThreadOf65534 reports whether a thread of this process is user 65534.
func hasThreadOf65534(t *testing.T) bool {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err == nil && strings.Contains(string(b), "Uid:\t65534") {
			return true
		}
	}
	return false
}

// TestAsErrors checks that As does not call its function if it cannot change to the user.
func TestAsErrors(t *testing.T) {
	ran := false
	if err := As("", func() { ran = true }); err != nil || !ran {
		t.Errorf(`As("") = %v, f ran: %v`, err, ran)
	}
	err := As("no-such-user-here", func() { t.Error("f ran") })
	if err == nil || !strings.Contains(err.Error(), "no such user") {
		t.Errorf("As = %v", err)
	}
	if os.Geteuid() == 0 {
		return
	}
	err = As("4711", func() { t.Error("f ran") })
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("As another user = %v, want %v", err, unix.EPERM)
	}
}
