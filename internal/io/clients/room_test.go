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

// TestSlowToLeave holds that a client which is sent away and does not leave
// keeps no place for the other silent ones, and that one that has still time to
// leave is the only one to go.
func TestSlowToLeave(t *testing.T) {
	for _, slow := range []bool{false, true} {
		r := NewRoom(3)
		r.grace = time.Hour
		if slow {
			r.grace = 0
		}
		sent := make(chan string, 3)
		var second *Client
		stuck := r.Enter(func() { sent <- "stuck" })
		second = r.Enter(func() { sent <- "second"; go r.Leave(second) })
		user := r.Enter(func() { sent <- "user" })
		r.Use(user)
		free := make(chan bool)
		go func() { free <- r.Wait() }()
		if got := <-sent; got != "stuck" {
			t.Fatalf("sent away first = %s, want stuck", got)
		}
		if !slow {
			for range 100 {
				r.Use(user) // those that wait look again
				time.Sleep(100 * time.Microsecond)
			}
			r.Leave(stuck)
		}
		if !<-free {
			t.Error("Wait() = false in an open room")
		}
		want := map[bool]int{false: 0, true: 1}[slow]
		if got := len(sent); got != want {
			t.Errorf("slow %v: %d more were sent away, want %d", slow, got, want)
		}
	}
}

// TestOnePlaceEach holds that as many are sent away as wait for a place.
func TestOnePlaceEach(t *testing.T) {
	r := NewRoom(4)
	r.grace = time.Hour
	sent := make(chan *Client, 4)
	for range 4 {
		var c *Client
		c = r.Enter(func() { sent <- c })
	}
	free := make(chan bool)
	for range 2 {
		go func() { free <- r.Wait() }()
	}
	for _, c := range []*Client{<-sent, <-sent} {
		r.Leave(c)
	}
	for range 2 {
		if !<-free {
			t.Error("Wait() = false in an open room")
		}
	}
	if got := len(sent); got != 0 {
		t.Errorf("%d more than needed were sent away", got)
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
