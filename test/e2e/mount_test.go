package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// unable is a file system, or a kernel, that cannot do one thing. faults are strace's
// injections into system calls on state files. The TPM works and warns once, or INIT
// fails with a line that names the remedy.
type unable struct {
	name    string
	keep    []keeping
	faults  []string
	options string // of --tpmstate
	works   bool
	log     string
}

var onlyDir, onlyFile = []keeping{inDir}, []keeping{inFile}

func unables() []unable {
	all := []unable{
		{"no locks of open files", keepings, []string{"fcntl:error=EINVAL:when=1"}, "", true, "is locked for the process instead"},
		{"no locks", onlyDir, []string{"fcntl:error=ENOLCK", "flock:error=ENOLCK"}, "", false, "lock=false"},
		{"no locks of any kind", keepings, []string{"fcntl:error=EINVAL"}, "", false, "lock=false"},
		{"no locks in the protocol", keepings, []string{"fcntl:error=EOPNOTSUPP"}, "", false, "lock=false"},
		{"no locks, lock=false", keepings, []string{"fcntl:error=ENOLCK", "flock:error=ENOLCK"}, ",lock=false", true, ""},
		{"a mode that was asked for", onlyDir, []string{"fchmod:error=EPERM"}, ",mode=0666", false, "leave out mode="}, // the umask changes it,
	}
	for _, errno := range []string{"EPERM", "ENOSYS", "EOPNOTSUPP"} {
		all = append(all, unable{"no chmod: " + errno, onlyDir, []string{"fchmod:error=" + errno}, "", true, ""})
	}
	for _, errno := range []string{"EINVAL", "EOPNOTSUPP", "ENOSYS"} {
		all = append(all,
			unable{"no fsync: " + errno, onlyDir, []string{"fsync:error=" + errno}, "", false, "durability=relaxed"},
			unable{"no fdatasync: " + errno, onlyFile, []string{"fdatasync:error=" + errno}, "", false, "durability=relaxed"})
	}
	return append(all,
		unable{"no fsync, durability=relaxed", keepings, []string{"fsync:error=EINVAL", "fdatasync:error=EINVAL"}, ",durability=relaxed", true, ""})
}

// TestUnableMount checks TPMs on file systems that lack a feature.
func TestUnableMount(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, u := range unables() {
		for _, k := range u.keep {
			t.Run(fmt.Sprint(k, " ", u.name), func(t *testing.T) {
				t.Parallel()
				u.check(t, k)
			})
		}
	}
}

func (u unable) check(t *testing.T, k keeping) {
	state := harness.TempDir(t)
	s := k.at(v20, state, "--seccomp", "action=log") // strace makes system calls of its own
	if k == inDir {
		s.state += u.options
	} else {
		s.file += u.options
		if !strings.Contains(u.options, "lock") {
			s.file += ",lock" // which is the default of directories
		}
	}
	e := start(t, s)
	tr := u.attach(t, e, k, state)
	// strace counts the calls of each thread, and Go may go on in another one.
	for range 20 {
		if !u.works || !u.once() || e.control(t).Init(0) == nil {
			break
		}
		tr.detach(t)
		e.Kill(t)
		e = start(t, s)
		tr = u.attach(t, e, k, state)
	}
	if !u.works {
		err := e.control(t).Init(0)
		tr.detach(t)
		if log := harness.Read(t, e.log); err == nil || !strings.Contains(log, u.log) {
			t.Errorf("INIT = %v; log without %q:\n%s", err, u.log, log)
		}
		return
	}
	ch := e.power(t, v20)
	ch.define(t)
	for range 3 {
		if err := ch.bump(0); err != nil {
			t.Fatal(err)
		}
	}
	tr.detach(t)
	log := harness.Read(t, e.log)
	if u.log != "" && strings.Count(log, u.log) != 1 || u.log == "" && strings.Contains(log, "failed") {
		t.Errorf("log, with %q expected once:\n%s", u.log, log)
	}
	if u.options == "" {
		s.args = nil
		if err := start(t, s).control(t).Init(0); err == nil {
			t.Error("a second emulator has the state, too")
		}
	}
	e.terminate(t)
	if n := start(t, k.at(v20, state)).power(t, v20).number(t); n != 4 {
		t.Errorf("the number is %d afterwards, want 4", n)
	}
}

// once reports whether a call fails only once.
func (u unable) once() bool { return strings.Contains(strings.Join(u.faults, " "), "when=") }

// attach lets system calls of e fail. One that fails once only is the first on the file
// that is locked.
func (u unable) attach(t *testing.T, e *emulator, k keeping, state string) *tracer {
	t.Helper()
	lock := filepath.Join(state, ".lock")
	if k == inFile {
		lock = k.file(v20, state)
	}
	args := []string{"-P", lock}
	for _, f := range u.faults {
		args = append(args, "-e", "inject="+f)
	}
	if u.once() {
		return attachTo(t, e, args)
	}
	return attach(t, e, k, state, v20, args...)
}

// TestForeignMount checks that the TPM starts twice on file systems that give its files to
// another user, as NFS with root_squash does, or that keep no modes; and that the doctor
// and the verbs on a state at rest agree.
func TestForeignMount(t *testing.T) {
	needRoot(t, "to mount")
	bindfs := harness.Need(t, "bindfs", "bindfs")
	t.Parallel()
	for name, options := range map[string][]string{
		"owners": {"--create-for-user=65534", "--create-for-group=65534", "--chown-deny"},
		"modes":  {"--chmod-deny", "--chown-deny"},
	} {
		for _, k := range keepings {
			t.Run(fmt.Sprint(name, " ", k), func(t *testing.T) {
				source, state := harness.TempDir(t), harness.TempDir(t)
				must(t, os.Chmod(source, 0o777))
				if out, err := exec.Command(bindfs, append(options, source, state)...).CombinedOutput(); err != nil {
					t.Skipf("no FUSE here: %v: %s", err, out)
				}
				t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
				// FUSE, unlike NFS, wants root's capabilities for files of another user. Root
				// keeps them if there is such a file at the start.
				write(t, filepath.Join(state, ".lock"), nil)
				for n := range uint64(2) {
					e := start(t, k.at(v20, state))
					ch := e.power(t, v20)
					if n == 0 {
						ch.define(t)
					} else if got := ch.number(t); got != 1 {
						t.Errorf("the number is %d, want 1", got)
					}
					e.terminate(t)
				}
				place := "dir=" + state
				if k == inFile {
					place = "backend-uri=file://" + k.file(v20, state)
				}
				for _, args := range [][]string{
					{"doctor", "--", "socket", "--tpm2", "--tpmstate", place, "--ctrl", "type=unixio,path=" + filepath.Join(source, "c")},
					{"state", "verify", "--tpmstate", place},
				} {
					if out, err := exec.Command(ours("swtpm"), args...).CombinedOutput(); err != nil {
						t.Errorf("%q: %v\n%s", args, err, out)
					}
				}
				if name != "owners" {
					return
				}
				var st unix.Stat_t
				if err := unix.Stat(k.file(v20, state), &st); err != nil || st.Uid != nobody {
					t.Errorf("the state belongs to user %d, %v: the test shows nothing", st.Uid, err)
				}
			})
		}
	}
}

// TestLinkedState checks that a state with a second name is refused with advice, and
// that the advice helps.
func TestLinkedState(t *testing.T) {
	t.Parallel()
	for _, k := range keepings {
		t.Run(k.kind, func(t *testing.T) {
			t.Parallel()
			state, copies := harness.TempDir(t), harness.TempDir(t)
			write(t, k.file(v20, state), k.makeState(t, v20))
			must(t, os.Link(k.file(v20, state), filepath.Join(copies, "copy")))
			e := start(t, k.at(v20, state))
			const advice = "cp -p FILE FILE.new && mv FILE.new FILE"
			if err := e.control(t).Init(0); err == nil || !strings.Contains(harness.Read(t, e.log), advice) {
				t.Fatalf("INIT = %v; log:\n%s", err, harness.Read(t, e.log))
			}
			e.terminate(t)
			sh := exec.Command("sh", "-c", strings.ReplaceAll(advice, "FILE", k.file(v20, state)))
			if out, err := sh.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if n := start(t, k.at(v20, state)).power(t, v20).number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
		})
	}
}

// TestForeignState checks the message for a state that belongs to another user.
func TestForeignState(t *testing.T) {
	needRoot(t, "to give the state away")
	t.Parallel()
	for _, k := range keepings {
		t.Run(k.kind, func(t *testing.T) {
			t.Parallel()
			state := harness.TempDir(t)
			write(t, k.file(v20, state), k.makeState(t, v20))
			must(t, os.Chown(k.file(v20, state), 4711, 4711))
			e := start(t, k.at(v20, state))
			log := func() string { return harness.Read(t, e.log) }
			if err := e.control(t).Init(0); err == nil || !strings.Contains(log(), "belongs to user 4711") || !strings.Contains(log(), "; correct the owner of the file with chown") {
				t.Errorf("INIT = %v; log:\n%s", err, log())
			}
			if files, err := filepath.Glob(filepath.Join(state, "*probe*")); err != nil || len(files) > 0 {
				t.Errorf("left over: %v, %v", files, err)
			}
		})
	}
}

// TestUmask checks that files of a process whose umask removes all permissions
// can be opened again by their owner.
func TestUmask(t *testing.T) {
	needRoot(t, "to become a user for whom modes count")
	t.Parallel()
	for _, mask := range []string{"0777", "0700", "0400"} {
		for _, k := range keepings {
			t.Run(fmt.Sprint(mask, " ", k), func(t *testing.T) {
				t.Parallel()
				state := harness.TempDir(t)
				must(t, os.Chown(state, nobody, nobody))
				for n := range uint64(2) {
					e := underMask(t, k, state, mask)
					ch := e.power(t, v20)
					if n == 0 {
						ch.define(t)
					} else if got := ch.number(t); got != 1 {
						t.Errorf("the number is %d, want 1", got)
					}
					e.terminate(t)
				}
				var st unix.Stat_t
				if err := unix.Stat(k.file(v20, state), &st); err != nil || st.Mode&0o600 != 0o600 {
					t.Errorf("mode %o, %v; the owner can read and write it no more", st.Mode&0o777, err)
				}
			})
		}
	}
}

// underMask starts an emulator as an ordinary user with a umask. The user owns state,
// where its sockets and its log are, too.
func underMask(t *testing.T, k keeping, state, mask string) *emulator {
	t.Helper()
	e := &emulator{dir: state, data: filepath.Join(state, "d"), ctrl: filepath.Join(state, "c"), log: filepath.Join(state, "log")}
	place := "dir=" + state
	if k == inFile {
		place = "backend-uri=file://" + k.file(v20, state)
	}
	cmd := exec.Command("sh", "-c", "umask "+mask+`; exec "$@"`, "sh", ours("swtpm"), "socket", "--tpm2", "--tpmstate", place,
		"--ctrl", "type=unixio,path="+e.ctrl, "--server", "type=unixio,path="+e.data, "--log", "file="+e.log)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	e.Process = harness.Start(t, cmd)
	e.await(t, e.ctrl)
	e.await(t, e.data)
	return e
}

// TestStoreVolatileUnsynced checks that no volatile state remains that could not be
// synced: STORE_VOLATILE fails, and the next INIT does not resume.
func TestStoreVolatileUnsynced(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		for _, k := range keepings {
			for _, sync := range []int{1, 2} { // of the item, and of what names it
				t.Run(fmt.Sprint(v, " ", k, " ", sync), func(t *testing.T) {
					t.Parallel()
					state := storeVolatileUnsynced(t, v, k, sync)
					next := start(t, k.at(v, state))
					if err := next.control(t).Init(0); err != nil {
						t.Fatalf("INIT: %v; log:\n%s", err, harness.Read(t, next.log))
					}
					ch := next.open(t, v)
					if rsp, err := ch.transmit(map[version]string{v12: ticks12, v20: random20}[v]); err != nil || result(rsp) == 0 {
						t.Errorf("the TPM has resumed: %x, %v", rsp, err)
					}
					ch.ok(t, ch.startup())
					if n := ch.number(t); n != 1 {
						t.Errorf("the number is %d, want 1", n)
					}
				})
			}
		}
	}
}

// storeVolatileUnsynced returns the state of a TPM whose STORE_VOLATILE failed because
// its n-th sync did, and no other call. strace counts the calls of each thread, and Go
// may change threads between two of them: such a try is repeated.
func storeVolatileUnsynced(t *testing.T, v version, k keeping, n int) (state string) {
	t.Helper()
	call := map[keeping]string{inDir: "fsync", inFile: "fdatasync"}[k]
	temp := "TMP" + strings.TrimPrefix(strings.TrimSuffix(v.file(), "permall"), "tpm") + "volatilestate"
	for range 20 {
		state = harness.TempDir(t)
		e := start(t, k.at(v, state, "--seccomp", "action=log"))
		e.power(t, v).define(t)
		tr := attach(t, e, k, state, v, "-P", filepath.Join(state, temp), "-e", fmt.Sprintf("inject=%s:error=EIO:when=%d", call, n))
		err := e.control(t).StoreVolatile()
		tr.detach(t)
		e.Kill(t)
		log := harness.Read(t, tr.file)
		if strings.Count(log, "(INJECTED)") != 1 || strings.Count(log[:strings.Index(log, "(INJECTED)")], call+"(") != n {
			continue
		}
		if err == nil {
			t.Fatalf("STORE_VOLATILE is acknowledged:\n%s", log)
		}
		return state
	}
	t.Fatal("no try in which one sync alone failed")
	return ""
}
