package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/test/harness"
)

// sicknesses are the ways in which a TPM can be kept from starting, and some that
// only look like one. states are the states of a TPM 1.2, of a TPM 2.0, and of one
// whose state is encrypted with key128.hex.
func sicknesses(states map[string][]byte) []sickness {
	var all []sickness
	for _, group := range [][]sickness{
		healthy(), placeSicknesses(), stateSicknesses(states), backupSicknesses(states), keySicknesses(states), lockSicknesses(), imageSicknesses(states), endSicknesses(), fileSicknesses(), machineSicknesses(),
	} {
		all = append(all, group...)
	}
	return all
}

// must fails the test at an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chmod changes the mode until the test ends.
func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	must(t, os.Chmod(path, mode))
	t.Cleanup(func() { _ = os.Chmod(path, 0o700) })
}

func healthy() []sickness {
	return []sickness{
		{name: "all is well", fine: true},
		{name: "all is well with a TPM 1.2", v: v12, fine: true},
		{name: "a new TPM", fine: true, want: []string{"state: note: a new TPM 2.0 will be created"},
			make: func(t *testing.T, w *ward) { must(t, os.Remove(w.in(v20.file()))) }},
		{name: "a new TPM in a new directory", fine: true, want: []string{"directory: note: it will be created"},
			make: func(t *testing.T, w *ward) {
				must(t, os.RemoveAll(w.state))
				w.place = fmt.Sprintf("dir = %q", w.state+"/deep/er")
				w.tpmstate = "create = true"
			}},
		{name: "a new TPM 1.2 beside a TPM 2.0", fine: true, want: []string{`state: warning: set tpm = "2.0", or add --tpm2`},
			make: func(_ *testing.T, w *ward) { w.tpm = "1.2" }},
		{name: "no startup to resume from", fine: true, want: []string{`start: warning: startup = "state"`},
			make: func(t *testing.T, w *ward) {
				must(t, os.WriteFile(w.in(v20.file()), seal20(t, "tpm2-fresh.permall"), 0o600))
				w.startup = "state"
			}},
		{name: "files left over", fine: true, want: []string{"state: note: TMP2-00.permall"},
			make: func(t *testing.T, w *ward) { write(t, w.in("TMP2-00.permall"), []byte("torn")) }},
		{name: "modes too wide", fine: true, want: []string{"directory: warning: mode 0777", "state: warning: 0666"},
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o777); chmod(t, w.in(v20.file()), 0o666) }},
	}
}

func placeSicknesses() []sickness {
	elsewhere := func(w *ward, path string) { w.place = fmt.Sprintf("dir = %q", path) }
	return []sickness{
		{name: "no directory", want: []string{"directory: error: no such directory"},
			make: func(_ *testing.T, w *ward) { elsewhere(w, w.at("none")) }},
		{name: "a directory that cannot be made", want: []string{"directory: error: cannot be created"},
			make: func(t *testing.T, w *ward) { elsewhere(w, w.at("st/new")); w.tpmstate = "create = true" },
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o500) }},
		{name: "a directory beneath a file", want: []string{"directory: error: not a directory"},
			make: func(t *testing.T, w *ward) { elsewhere(w, w.in(v20.file())+"/x"); w.tpmstate = "create = true" }},
		{name: "a file for a directory", want: []string{"directory: error: not a directory"},
			make: func(_ *testing.T, w *ward) { elsewhere(w, w.in(v20.file())) }},
		{name: "a link that leads nowhere", want: []string{"directory: error: target is missing"},
			make: func(t *testing.T, w *ward) {
				must(t, os.Symlink("none", w.at("link")))
				elsewhere(w, w.at("link"))
				w.tpmstate = "create = true"
			}},
		{name: "a link to the directory", fine: true,
			make: func(t *testing.T, w *ward) { must(t, os.Symlink("st", w.at("link"))); elsewhere(w, w.at("link")) }},
		{name: "a closed parent", want: []string{"directory: error: may not enter"},
			make: func(t *testing.T, w *ward) { mkdir(t, w.in("deep")); elsewhere(w, w.in("deep")) },
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o600) }},
		{name: "a directory that cannot be read", want: []string{"directory: error: cannot be read"},
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o300) }},
		{name: "a directory that cannot be entered", want: []string{"directory: error: cannot be read"},
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o600) }},
		{name: "a directory that cannot be written", want: []string{"directory: error: not writable"},
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o500) }},
		{name: "a directory that cannot be written, with a lock file", want: []string{"directory: error: not writable"},
			make: func(t *testing.T, w *ward) { write(t, w.in(".lock"), nil) },
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o500) }},
		{name: "a directory of another user", root: true, want: []string{"directory: error: not writable"},
			then: func(t *testing.T, w *ward) { must(t, os.Chown(w.state, 0, 0)); chmod(t, w.state, 0o755) }},
		{name: "a directory that a list lets us use", root: true, any: true, // where access lists are
			then: func(t *testing.T, w *ward) {
				must(t, os.Chown(w.state, 0, 0))
				// user::rwx user:65534:rwx group::--- mask::rwx other::---
				acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\xfe\xff\x00\x00" +
					"\x04\x00\x00\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
				if err := unix.Setxattr(w.state, "system.posix_acl_access", acl, 0); err != nil {
					t.Logf("no access lists here: %v", err)
				}
			}},
	}
}

// seal20 is a state file with a payload of package payload's tests.
func seal20(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../internal/emul/payload/testdata/" + name)
	must(t, err)
	blob, err := seal.Seal(b, nil)
	must(t, err)
	return blob
}

// replace puts something else in the place of the permanent state.
func replace(f func(path string) error) func(*testing.T, *ward) {
	return func(t *testing.T, w *ward) {
		t.Helper()
		must(t, os.Rename(w.in(v20.file()), w.at("old")))
		must(t, f(w.in(v20.file())))
	}
}

// content replaces the bytes of the permanent state.
func content(f func([]byte) []byte) func(*testing.T, *ward) {
	return func(t *testing.T, w *ward) {
		t.Helper()
		b, err := os.ReadFile(w.in(v20.file()))
		must(t, err)
		write(t, w.in(v20.file()), f(b))
	}
}

func flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

func must1(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// hold keeps the state busy with an emulator of program, as root or as the user who
// runs the test.
func hold(program func(testing.TB) string) func(*testing.T, *ward) {
	return func(t *testing.T, w *ward) {
		t.Helper()
		e := start(t, setup{program: program(t), tpm: v20, state: w.state})
		e.power(t, v20)
		if program(t) == mine(t) {
			awaitBoot(t, w.state, v20)
		}
		giveAway(t, w.state) // what it has made as root
	}
}

func lockSicknesses() []sickness {
	lockFile := func(f func(path string) error) func(*testing.T, *ward) {
		return func(t *testing.T, w *ward) { must(t, f(w.in(".lock"))) }
	}
	return []sickness{
		{name: "a state in use", want: []string{"lock: error: (swtpm)"}, then: hold(mine)},
		{name: "a state in use by the reference", want: []string{"lock: error: (swtpm)"}, then: hold(harness.Reference)},
		{name: "a state in use without its lock file", want: []string{"lock: error: (swtpm)"},
			then: func(t *testing.T, w *ward) { hold(mine)(t, w); must(t, os.Remove(w.in(".lock"))) }},
		{name: "a state in use that is not locked", fine: true, make: func(_ *testing.T, w *ward) { w.tpmstate = "lock = false" }, then: hold(mine)},
		{name: "a state in use until a guest comes with it", fine: true, want: []string{"lock: note: (swtpm)"},
			make: func(_ *testing.T, w *ward) {
				w.startup = "none"
				w.more = fmt.Sprintf("[control]\nlisten = %q\n[migration]\nincoming = true\n", "unix:"+w.at("c"))
			}, then: hold(mine)},
		{name: "a damaged state that a client powers on", want: []string{"state: error: checksum"},
			make: func(t *testing.T, w *ward) {
				content(flip)(t, w)
				w.startup = "none"
				w.more = fmt.Sprintf("[control]\nlisten = %q\n", "unix:"+w.at("c"))
			}},
		{name: "a link for a lock", want: []string{"lock: error: not a regular file"},
			make: lockFile(func(path string) error { return os.Symlink("other", path) })},
		{name: "a directory for a lock", want: []string{"lock: error: not a regular file"},
			make: lockFile(func(path string) error { return os.Mkdir(path, 0o700) })},
		{name: "a lock with two names", want: []string{"lock: error: 2 hard links"},
			make: lockFile(func(path string) error { return os.Link(filepath.Dir(path)+"/"+v20.file(), path) })},
		{name: "a lock that cannot be opened", want: []string{"lock: error: cannot be locked"},
			make: lockFile(func(path string) error { return os.WriteFile(path, nil, 0o600) }),
			then: func(t *testing.T, w *ward) { chmod(t, w.in(".lock"), 0o400) }},
	}
}

// listenAt listens at addr.
func listenAt(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// endSicknessesCases are the cases of endSicknesses.
var endSicknessesCases = []sickness{
	{name: "a path that is taken", want: []string{"data: error: listens there"},
		make: func(t *testing.T, w *ward) { listenAt(t, "unix", w.at("d")) }},
	{name: "a path of something else", want: []string{"data: error: not a socket"},
		make: func(t *testing.T, w *ward) { write(t, w.at("d"), nil) }},
	{name: "a socket left over", fine: true, want: []string{"data: note: a socket of an earlier process"},
		make: func(t *testing.T, w *ward) {
			l := listenAt(t, "unix", w.at("d"))
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			_ = l.Close()
		}},
	{name: "a socket left over that cannot be removed", root: true, want: []string{"data: error: cannot create a socket"},
		make: func(t *testing.T, w *ward) {
			mkdir(t, w.at("s"))
			w.server = "unix:" + w.at("s/d")
			l := listenAt(t, "unix", w.at("s/d"))
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			_ = l.Close()
		},
		then: func(t *testing.T, w *ward) {
			must(t, os.Chown(w.at("s/d"), 0, 0))
			must(t, os.Chmod(w.at("s/d"), 0o777))
			must(t, os.Chown(w.at("s"), 0, 0))
			must(t, os.Chmod(w.at("s"), 0o777|os.ModeSticky))
		}},
	{name: "a socket in no directory", want: []string{"data: error: missing directory"},
		make: func(_ *testing.T, w *ward) { w.server = "unix:" + w.at("none/d") }},
	{name: "a socket in a directory that cannot be written", want: []string{"data: error: cannot create a socket"},
		make: func(t *testing.T, w *ward) { mkdir(t, w.at("s")); w.server = "unix:" + w.at("s/d") },
		then: func(t *testing.T, w *ward) { chmod(t, w.at("s"), 0o500) }},
	{name: "a socket for a stranger", want: []string{"data: error: may not change the owner of the socket to 1:"},
		make: func(_ *testing.T, w *ward) { w.ends = "uid = 1" }},
	{name: "a socket in a directory for everybody", fine: true, want: []string{"data: warning: other users can replace the socket"},
		make: func(t *testing.T, w *ward) { mkdir(t, w.at("s")); w.server = "unix:" + w.at("s/d") },
		then: func(t *testing.T, w *ward) { chmod(t, w.at("s"), 0o777) }},
	{name: "a port that is taken", want: []string{"data: error: listens there"},
		make: func(t *testing.T, w *ward) { w.server = "tcp:" + listenAt(t, "tcp", "127.0.0.1:0").Addr().String() }},
	{name: "an address of another machine", want: []string{"data: error: does not have that address"},
		make: func(_ *testing.T, w *ward) { w.server = "tcp:192.0.2.1:7777" }},
	{name: "a port of the system", any: true, // where ip_unprivileged_port_start keeps it for root
		make: func(_ *testing.T, w *ward) { w.server = "tcp:127.0.0.1:7" }},
	{name: "no such interface", want: []string{"data: error: tcp:[fe80::1%none0]:7777"},
		make: func(_ *testing.T, w *ward) { w.server = "tcp:[fe80::1%none0]:7777" }},
	{name: "a descriptor that was not passed", want: []string{"data: error: the descriptor was not passed"},
		make: func(_ *testing.T, w *ward) { w.server = "fd:99" }},
	{name: "a connection that was not passed", want: []string{"data: error: the descriptor was not passed"},
		make: func(_ *testing.T, w *ward) { w.server = "clientfd:99" }},
	{name: "a path that is too long", want: []string{"profile: error: path too long"},
		make: func(_ *testing.T, w *ward) { w.server = "unix:" + w.at(strings.Repeat("x", 108)) }},
	{name: "a socket of no such user", want: []string{"profile: error: no-such-user-here"},
		make: func(_ *testing.T, w *ward) { w.ends = `uid = "no-such-user-here"` }},
	{name: "a control path that is taken", want: []string{"control: error: listens there"},
		make: func(t *testing.T, w *ward) {
			listenAt(t, "unix", w.at("c"))
			w.more = fmt.Sprintf("[control]\nlisten = %q\n", "unix:"+w.at("c"))
		}},
	{name: "a control connection that was not passed", want: []string{"control: error: the descriptor was not passed"},
		make: func(t *testing.T, w *ward) { w.more = "[control]\nlisten = \"clientfd:99\"\n" }},
}

func endSicknesses() []sickness {
	return endSicknessesCases
}

func fileSicknesses() []sickness {
	var all []sickness
	for _, table := range []string{"log", "pid", "pcap"} {
		at := func(name string, f func(t *testing.T, path string)) func(*testing.T, *ward) {
			return func(t *testing.T, w *ward) {
				w.more = fmt.Sprintf("[%s]\nfile = %q\n", table, w.at(name))
				if f != nil {
					f(t, w.at(name))
				}
			}
		}
		all = append(all,
			sickness{name: "a new " + table, fine: true, make: at("new", nil)},
			sickness{name: "an old " + table, fine: true, make: at("old", func(t *testing.T, path string) { write(t, path, []byte("4711")) })},
			sickness{name: table + " in no directory", want: []string{table + ": error: missing directory"}, make: at("none/x", nil)},
			sickness{name: table + " is a directory", want: []string{table + ": error: is a directory"},
				make: at("folder", func(t *testing.T, path string) { mkdir(t, path) })},
			sickness{name: table + " is a link", want: []string{table + ": error: symbolic link"},
				make: at("link", func(t *testing.T, path string) { must(t, os.Symlink("x", path)) })},
			sickness{name: table + " has two names", want: []string{table + ": error: hard links"},
				make: at("twice", func(t *testing.T, path string) { write(t, path, nil); must(t, os.Link(path, path+"2")) })},
			sickness{name: table + " cannot be written", want: []string{table + ": error: permission denied"},
				make: at("ro", func(t *testing.T, path string) { write(t, path, nil) }),
				then: func(t *testing.T, w *ward) { chmod(t, w.at("ro"), 0o400) }},
			sickness{name: table + " of a descriptor that was not passed", want: []string{table + ": error: the descriptor was not passed"},
				make: func(_ *testing.T, w *ward) { w.more = fmt.Sprintf("[%s]\nfd = 99\n", table) }},
			sickness{name: table + " of a stranger in a common directory", root: true, any: true, // by protected_regular
				make: func(t *testing.T, w *ward) {
					mkdir(t, w.at("tmp"))
					write(t, w.at("tmp/x"), nil)
					w.more = fmt.Sprintf("[%s]\nfile = %q\n", table, w.at("tmp/x"))
				},
				then: func(t *testing.T, w *ward) {
					must(t, os.Chown(w.at("tmp/x"), 1, 1))
					must(t, os.Chmod(w.at("tmp/x"), 0o666))
					must(t, os.Chown(w.at("tmp"), 0, 0))
					must(t, os.Chmod(w.at("tmp"), 0o777|os.ModeSticky))
				}},
		)
	}
	return all
}

// mount puts a file system on the state directory, which gets the state again.
func mount(options string, flags uintptr) func(*testing.T, *ward) {
	return func(t *testing.T, w *ward) {
		t.Helper()
		state := harness.Read(t, w.in(v20.file()))
		if err := unix.Mount("tmpfs", w.state, "tmpfs", 0, options+",uid=65534,mode=0700"); err != nil {
			t.Skipf("needs root with the right to mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(w.state, unix.MNT_DETACH) })
		write(t, w.in(v20.file()), []byte(state))
		must(t, os.Chown(w.in(v20.file()), nobody, nobody))
		if flags != 0 {
			must(t, unix.Mount("", w.state, "", unix.MS_REMOUNT|flags, ""))
		}
	}
}

func machineSicknesses() []sickness {
	return []sickness{
		{name: "mounts a file system that is read-only", root: true, want: []string{"directory: error: read-only"},
			then: mount("size=1m", unix.MS_RDONLY)},
		{name: "mounts a file system that is full", root: true, want: []string{"space: error: is full"},
			then: func(t *testing.T, w *ward) { mount("size=128k", 0)(t, w); fill(t, w.in("filler")) }},
		{name: "mounts a file system without inodes", root: true, want: []string{"space: error: inode"},
			then: func(t *testing.T, w *ward) {
				mount("size=1m,nr_inodes=4", 0)(t, w)
				for i := range 10 {
					f, err := os.Create(w.in(fmt.Sprint("filler", i)))
					if err != nil {
						return
					}
					_ = f.Close()
				}
				t.Error("there are more inodes than there should be")
			}},
		{name: "mounts a file system that is nearly full", root: true, fine: true, want: []string{"space: warning: nearly full"},
			then: mount("size=512k", 0)},
		{name: "no such user", want: []string{"user: error: no such user"},
			make: func(_ *testing.T, w *ward) { w.more = "[sandbox]\nuser = \"no-such-user-here\"\n" }},
		{name: "another user than we may become", any: true, // root may
			make: func(_ *testing.T, w *ward) { w.more = "[sandbox]\nuser = \"65534\"\n" }},
		{name: "an algorithm profile", any: true, // by the version of libtpms
			make: func(t *testing.T, w *ward) {
				must(t, os.Remove(w.in(v20.file())))
				w.more = "[profile]\nname = \"default-v1\"\n"
			}},
		{name: "an algorithm profile for a TPM that is there", // which check says so is up to the library
			make: func(_ *testing.T, w *ward) { w.more = "[profile]\nname = \"default-v1\"\n" }},
		{name: "an algorithm profile of root", root: true, want: []string{"algorithm-profile: error: "},
			make: func(t *testing.T, w *ward) {
				must(t, os.Remove(w.in(v20.file())))
				write(t, w.at("custom"), []byte(`{"Name":"custom"}`))
				w.more = fmt.Sprintf("[profile]\nfile = %q\n", w.at("custom"))
			}, then: func(t *testing.T, w *ward) { must(t, os.Chown(w.at("custom"), 0, 0)) }},
		{name: "an algorithm profile in no file", want: []string{"algorithm-profile: error: "},
			make: func(_ *testing.T, w *ward) { w.more = fmt.Sprintf("[profile]\nfile = %q\n", w.at("none")) }},
		{name: "a mistake in the profile", want: []string{"profile: error: vm.toml:10:1"},
			make: func(_ *testing.T, w *ward) { w.more = "colour = 1\n" }},
	}
}
