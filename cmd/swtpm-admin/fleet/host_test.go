package fleet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a host in a directory.
type fake struct {
	*Host
	dir string
}

// newFake returns a host without processes. Its installed files are below dir.
func newFake(t *testing.T) *fake {
	t.Helper()
	dir := t.TempDir()
	f := &fake{&Host{managerTime: limit / 10, Proc: filepath.Join(dir, "proc"), States: filepath.Join(dir, "states"), UID: 0}, dir}
	f.write(t, "proc/stat", "cpu 1\nbtime 1700000000\n")
	for _, lib := range []string{"libtpms.so.0.9.2", "libcrypto.so.3"} {
		f.write(t, "lib/"+lib, lib)
	}
	f.link(t, "lib/libtpms.so.0", "libtpms.so.0.9.2")
	for _, program := range []string{"swtpm", "qemu-system-x86_64"} {
		f.write(t, "bin/"+program, "")
		if err := os.Chmod(f.path("bin/"+program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.write(t, "proc/self/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n")
	if os.Geteuid() != 0 {
		f.UID = os.Geteuid()
	}
	return f
}

func (f *fake) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fake) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) link(t *testing.T, name, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(f.path(name))
	if err := os.Symlink(to, f.path(name)); err != nil {
		t.Fatal(err)
	}
}

// run adds a process that runs a program of bin. Its sockets have the inodes pid*10 and
// above: the first listens, the others are connections.
func (f *fake) run(t *testing.T, pid int, program, socket string, connections int, args ...string) {
	t.Helper()
	at := fmt.Sprintf("proc/%d/", pid)
	f.link(t, at+"exe", f.path("bin/"+program))
	f.link(t, at+"cwd", f.dir)
	f.link(t, at+"ns/net", fmt.Sprintf("net:[%d]", pid))
	f.link(t, at+"root", f.path("root"))
	if err := os.MkdirAll(f.path("root"+filepath.Dir("/"+socket)), 0o755); err != nil {
		t.Fatal(err)
	}
	f.write(t, at+"comm", program+"\n")
	f.write(t, at+"cmdline", strings.Join(append([]string{program}, args...), "\x00")+"\x00")
	f.write(t, at+"status", fmt.Sprintf("Name:\t%s\nUid:\t%d\t0\t0\t0\nSeccomp:\t2\n", program, f.UID))
	f.write(t, at+"stat", fmt.Sprintf("%d (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 7 0 1234 1 1", pid))
	f.write(t, at+"cgroup", "0::/\n")
	maps := ""
	for _, lib := range []string{"libtpms.so.0.9.2", "libcrypto.so.3"} {
		maps += fmt.Sprintf("7f0000000000-7f0000001000 r--p 00000000 00:1f %d      %s\n", inodeOf(t, f.path("lib/"+lib)), f.path("lib/"+lib))
	}
	f.write(t, at+"maps", maps)
	net := "Num       RefCount Protocol Flags    Type St Inode Path\n"
	for i := range connections + 1 {
		flags, state := "00010000", "01"
		if i > 0 {
			flags, state = "00000000", "03"
		}
		net += fmt.Sprintf("0000000000000000: 00000002 00000000 %s 0001 %s %d %s\n", flags, state, pid*10+i, socket)
		f.link(t, fmt.Sprintf("%sfd/%d", at, 10+i), fmt.Sprintf("socket:[%d]", pid*10+i))
	}
	f.write(t, at+"net/unix", net)
	f.link(t, at+"fd/9", "/memfd:swtpm-commands (deleted)")
	f.write(t, at+"fdinfo/9", fmt.Sprintf("pos:\t%d\nflags:\t02000002\n", pid*100))
}

// classic is the command line of a TPM whose control socket has the path.
func classic(socket string) []string {
	return []string{"socket", "--tpm2", "--ctrl", "type=unixio,path=" + socket, "--tpmstate", "dir=/nonexistent"}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	s := (&Host{}).snapshot()
	return s.lookup(path).inode
}

// list collects and returns the only TPM.
func (f *fake) list(t *testing.T) TPM {
	t.Helper()
	tpms, notes := f.Collect(context.Background())
	if len(tpms) != 1 || len(notes) > 0 {
		t.Fatalf("%+v, %q, want one TPM", tpms, notes)
	}
	return tpms[0]
}
