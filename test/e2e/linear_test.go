package e2e_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/nvtest"
)

// media create the kinds of files that can have the state. Each returns the path.
var media = map[string]func(t *testing.T) string{
	"new file": func(t *testing.T) string { return filepath.Join(harness.TempDir(t), "image") },
	"4 MiB":    func(t *testing.T) string { return volume(t, 4<<20) },
	"device":   func(t *testing.T) string { return nvtest.Loop(t, volume(t, 4<<20)) },
}

// volume returns the path of a file with size zeros.
func volume(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(harness.TempDir(t), "volume")
	write(t, path, make([]byte, size))
	return path
}

// TestFileHops checks that ours and the reference continue with the state of the other in one
// file, in both directions, with and without volatile state, in each layout.
func TestFileHops(t *testing.T) {
	t.Parallel()
	for _, on := range []struct{ medium, encryption string }{
		{"new file", "plain"}, {"4 MiB", "aes-128"}, {"device", "sha512"},
	} {
		for _, v := range both {
			if !v.runs(on.medium == "4 MiB") {
				continue
			}
			for _, firstOurs := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %s, %s, ours first %t", on.medium, on.encryption, v, firstOurs), func(t *testing.T) {
					t.Parallel()
					fileHops(t, media[on.medium](t), encryptions[on.encryption], v, firstOurs)
				})
			}
		}
	}
}

// fileHops has each program start twice in a row now and then, so that the
// reference works in a layout of its own and in one of ours.
func fileHops(t *testing.T, image string, args []string, v version, isOurs bool) {
	resume, pcr := false, ""
	for hop := range uint64(6) {
		program := ours("swtpm")
		if !isOurs {
			program = harness.Reference(t)
		}
		e := start(t, setup{program: program, tpm: v, file: image, args: args})
		c := e.control(t)
		if err := c.Init(ctrl.InitDeleteVolatile); err != nil {
			t.Fatalf("hop %d, ours %t: INIT: %v; log:\n%s", hop, isOurs, err, harness.Read(t, e.log))
		}
		ch := e.open(t, v)
		if !resume {
			ch.ok(t, ch.startup())
		} else if got := pcrValue(ch.ok(t, readPCR[v])); got != pcr {
			t.Fatalf("hop %d, ours %t: PCR 10 is %s, want %s", hop, isOurs, got, pcr)
		}
		if hop == 0 {
			ch.define(t)
		} else if err := ch.bump(hop + 1); err != nil {
			t.Fatalf("hop %d, ours %t: %v", hop, isOurs, err)
		}
		if n := ch.number(t); n != hop+1 {
			t.Fatalf("hop %d, ours %t: the number is %d, want %d", hop, isOurs, n, hop+1)
		}
		if resume = hop%3 != 1; resume {
			ch.ok(t, extend[v])
			pcr = pcrValue(ch.ok(t, readPCR[v]))
			if err := c.StoreVolatile(); err != nil {
				t.Fatalf("hop %d, ours %t: STORE_VOLATILE: %v; log:\n%s", hop, isOurs, err, harness.Read(t, e.log))
			}
			e.Kill(t)
		} else {
			_, _ = ch.Close(), c.Close()
			e.terminate(t)
		}
		if hop%4 != 2 {
			isOurs = !isOurs
		}
	}
}

// TestProxmox checks Proxmox VE's command line with the storage that it uses: a volume of 4 MiB
// that is a plain file, a link to a block device, or a file that cannot be removed.
func TestProxmox(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T) string{
		"file": media["4 MiB"],
		"link to a device": func(t *testing.T) string {
			link := filepath.Join(harness.TempDir(t), "vm-100-disk-0")
			if err := os.Symlink(media["device"](t), link); err != nil {
				t.Fatal(err)
			}
			return link
		},
		"mount": func(t *testing.T) string {
			needRoot(t, "it mounts a file")
			path := filepath.Join(harness.TempDir(t), "export")
			write(t, path, nil)
			if err := unix.Mount(media["4 MiB"](t), path, "", unix.MS_BIND, ""); err != nil {
				t.Skipf("needs root with the right to mount: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
			return path
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, dir := make(t), harness.TempDir(t)
			for run := range uint64(2) {
				sock, pid, log := filepath.Join(dir, "100.swtpm"), filepath.Join(dir, "100.swtpm.pid"), filepath.Join(dir, "100-swtpm.log")
				mustRun(t, ours("swtpm"), "socket", "--tpmstate", "backend-uri=file://"+image+",mode=0600",
					"--ctrl", "type=unixio,path="+sock+",mode=0600", "--pid", "file="+pid, "--terminate", "--daemon",
					"--log", "file="+log+",level=1,prefix=[id=1700000000] ", "--tpm2")
				first, _, _ := strings.Cut(harness.Read(t, pid), "\n")
				process, err := strconv.Atoi(first) // there as soon as the command returns
				if err != nil {
					t.Fatal(err)
				}
				pidfd, err := unix.PidfdOpen(process, 0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // no other process that has its number by then
					_ = unix.Close(pidfd)
				})
				proxmoxGuest(t, sock, log, run+1)
				if err := harness.Until(func() bool { return unix.Kill(process, 0) != nil }); err != nil {
					t.Error("the process does not end with the guest")
				}
			}
		})
	}
}

// proxmoxGuest is what QEMU and a guest do.
func proxmoxGuest(t *testing.T, sock, log string, want uint64) {
	c, err := ctrl.Dial(t.Context(), "unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	c.Timeout = harness.EventTimeout
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDataFD(pair[1]); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pair[1])
	if err := c.Init(0); err != nil {
		t.Fatalf("INIT: %v; log:\n%s", err, harness.Read(t, log))
	}
	data := os.NewFile(uintptr(pair[0]), "data")
	conn, err := net.FileConn(data)
	_ = data.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch := &channel{conn, v20}
	ch.ok(t, ch.startup())
	if want == 1 {
		ch.define(t)
	} else if err := ch.bump(want); err != nil {
		t.Fatal(err)
	}
	if n := ch.number(t); n != want {
		t.Errorf("the number is %d, want %d", n, want)
	}
	if err := c.Shutdown(); err != nil {
		t.Error(err)
	}
}

// TestFullDiskWithFile checks that commands succeed on a full disk as soon as the file has both
// places for an item.
func TestFullDiskWithFile(t *testing.T) {
	needRoot(t, "it mounts a small tmpfs")
	t.Parallel()
	dir := harness.TempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("needs root with the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	e := start(t, inFile.at(v20, dir))
	ch := e.power(t, v20)
	ch.define(t)
	fill(t, filepath.Join(dir, "filler"))
	for n := range uint64(3) {
		if err := ch.bump(n + 2); err != nil {
			t.Errorf("bump %d: %v; log:\n%s", n, err, harness.Read(t, e.log))
		}
	}
	e.Kill(t)
	e = start(t, inFile.at(v20, dir))
	if n := e.power(t, v20).number(t); n != 4 {
		t.Errorf("the number is %d, want 4", n)
	}
}

// TestDamageOfFile checks that INIT refuses a damaged file, logs the reason and does not
// change it, or that the TPM starts as it was. TestDamage of package linear has each bit of
// the header, TestEveryFlip of package seal each bit of an item.
func TestDamageOfFile(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			good := inFile.makeState(t, v)
			d := newDamage(t, inFile, v, nil)
			// Of the header's first entry, of the permanent state: u32
			// offset, length, section.
			from := int(binary.LittleEndian.Uint32(good[12:]))
			to := from + int(binary.LittleEndian.Uint32(good[16:]))
			end := from + int(binary.LittleEndian.Uint32(good[20:]))
			for i := range good {
				item := i >= from && i < to
				if i >= 24 && i < 192 || item && i%371 != 0 || i >= 192 && !item && i%15001 != 0 {
					continue
				}
				bad := bytes.Clone(good)
				bad[i] ^= 1 << (i % 8)
				fine := d.refusedOrFine(t, fmt.Sprintf("byte %d flipped", i), bad)
				free := i == 9 || i >= 20 && i < 24 || i >= 192 // padding, section: see parseHeader
				if fine && (item || !free) {
					t.Errorf("byte %d flipped: INIT succeeds", i)
				}
			}
			for n := 1; n < len(good); n += 1 + n/2 {
				if d.refusedOrFine(t, fmt.Sprintf("cut to %d bytes", n), good[:n]) && n < end {
					t.Errorf("cut to %d bytes: INIT succeeds", n)
				}
			}
			write(t, d.file, good)
			if err := d.ctrl.Init(0); err != nil {
				t.Fatalf("INIT with the undamaged state: %v", err)
			}
			if n := d.open(t, v).withStartup(t).number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
			d.finish(t)
		})
	}
}

// refusedOrFine checks that INIT refuses b, as refused does, or starts the TPM with its number.
func (d *damage) refusedOrFine(t *testing.T, what string, b []byte) (fine bool) {
	t.Helper()
	write(t, d.file, b)
	err := d.ctrl.Init(0)
	if d.Ended() {
		t.Fatalf("%s: the process has ended:\n%s", what, d.Out.String())
	}
	log := d.newLines(t)
	if err == nil {
		ch := d.open(t, d.v).withStartup(t)
		if n := ch.number(t); n != 1 {
			t.Errorf("%s: the number is %d, want 1", what, n)
		}
		_ = ch.Close()
		if err := d.ctrl.Stop(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if now := harness.Read(t, d.file); now != string(b) {
		t.Fatalf("%s: the file was changed: %d bytes, were %d", what, len(now), len(b))
	}
	d.logged(t, what, log, d.file)
	return false
}
