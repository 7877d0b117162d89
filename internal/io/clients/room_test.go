package clients

import (
	"testing"
	"time"
)

func TestSilentClientMakesRoom(t *testing.T) {
	r := NewRoom(2)
	var first, second *Client
	left := make(chan string, 2)
	first = r.Enter(func() { go func() { left <- "first"; r.Leave(first) }() })
	second = r.Enter(func() { go func() { left <- "second"; r.Leave(second) }() })
	r.Use(first)
	if !r.Wait() {
		t.Fatal("Wait() = false in an open room")
	}
	if got := <-left; got != "second" {
		t.Errorf("sent away = %s, want second, which had no answer", got)
	}
	if got := r.Len(); got != 1 {
		t.Errorf("Len() = %d, want 1", got)
	}
}

func TestUsersKeepTheirPlaces(t *testing.T) {
	r := NewRoom(1)
	c := r.Enter(func() { t.Error("a client that had an answer was sent away") })
	r.Use(c)
	free := make(chan bool)
	go func() { free <- r.Wait() }()
	select {
	case <-free:
		t.Fatal("Wait() returned with all places taken")
	case <-time.After(20 * time.Millisecond):
	}
	r.Leave(c)
	if !<-free {
		t.Error("Wait() = false after a client left")
	}
}

func TestCloseEndsWait(t *testing.T) {
	r := NewRoom(1)
	r.Enter(nil)
	free := make(chan bool)
	go func() { free <- r.Wait() }()
	r.Close()
	if <-free {
		t.Error("Wait() = true in a closed room")
	}
	if r.Enter(nil) != nil {
		t.Error("Enter() let a client into a closed room")
	}
}

func TestLost(t *testing.T) {
	for _, c := range []struct {
		name          string
		used          bool // the one that leaves
		others, users int
		want          bool
	}{
		{"the only one, silent", false, 0, 0, true},
		{"the only one", true, 0, 0, true},
		{"a silent one, a user stays", false, 1, 1, false},
		{"a silent one, a silent one stays", false, 1, 0, false},
		{"the last user, a silent one stays", true, 1, 0, true},
		{"a user, another stays", true, 2, 1, false},
	} {
		r := NewRoom(10)
		for i := range c.others {
			o := r.Enter(nil)
			if i < c.users {
				r.Use(o)
			}
		}
		leaver := r.Enter(nil)
		if c.used {
			r.Use(leaver)
		}
		if got := r.Leave(leaver); got != c.want {
			t.Errorf("%s: Leave() = %v, want %v", c.name, got, c.want)
		}
	}
}
