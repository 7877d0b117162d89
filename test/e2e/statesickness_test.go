package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/linear"
	"github.com/swtpm-go/swtpm/test/harness"
)

func stateSicknesses(states map[string][]byte) []sickness {
	return []sickness{
		{name: "a state that cannot be read", want: []string{"state: error: cannot be used"},
			then: func(t *testing.T, w *ward) { chmod(t, w.in(v20.file()), 0) }},
		{name: "a state of a stranger", root: true, want: []string{"state: error: belongs to user 1"},
			then: func(t *testing.T, w *ward) {
				must(t, os.Chown(w.in(v20.file()), 1, 1))
				chmod(t, w.in(v20.file()), 0o644)
			}},
		{name: "a state whose mode cannot be set", root: true, want: []string{"state: error: set mode 0640"},
			then: func(t *testing.T, w *ward) {
				must(t, os.Chown(w.in(v20.file()), 0, 0))
				chmod(t, w.in(v20.file()), 0o444)
			}},
		{name: "a link for a state", want: []string{"state: error: symbolic link"},
			make: replace(func(path string) error { return os.Symlink("../old", path) })},
		{name: "a fifo for a state", want: []string{"state: error: not a regular file"},
			make: replace(func(path string) error { return unix.Mkfifo(path, 0o600) })},
		{name: "a directory for a state", want: []string{"state: error: not a regular file"},
			make: replace(func(path string) error { return os.Mkdir(path, 0o700) })},
		{name: "a state with two names", want: []string{"state: error: 2 hard links"},
			make: replace(func(path string) error { return os.Link(filepath.Dir(filepath.Dir(path))+"/old", path) })},
		{name: "an empty state", want: []string{"state: error: is empty"}, make: content(func([]byte) []byte { return nil })},
		{name: "a huge state", want: []string{"state: error: a state has at most"},
			make: func(t *testing.T, w *ward) { must(t, os.Truncate(w.in(v20.file()), 1<<30)) }},
		{name: "a damaged state", want: []string{"state: error: checksum", "state: error: restore the file"}, make: content(flip)},
		{name: "a state cut short", want: []string{"state: error: its header says"}, make: content(func(b []byte) []byte { return b[:len(b)-9] })},
		{name: "rubbish for a state", want: []string{"state: error: "}, make: content(func([]byte) []byte { return []byte("this was a state") })},
		{name: "the state of another version", want: []string{"state: error: payload"},
			make: content(func([]byte) []byte { return states["1.2"] })},
		{name: "a state lost while it was swapped", want: []string{"state: error: rename it back"},
			make: func(t *testing.T, w *ward) { must(t, os.Rename(w.in(v20.file()), w.in("tpm2-00.permall.tmp"))) }},
		{name: "an interrupted change that cannot be completed", want: []string{"state: error: interrupted change"},
			make: func(t *testing.T, w *ward) { write(t, w.in("NEW2-00.journal"), []byte("was a journal")) }},
		{name: "a volatile state alone", want: []string{"state: error: the state is incomplete"},
			make: func(t *testing.T, w *ward) {
				must(t, os.Remove(w.in(v20.file())))
				write(t, w.in("tpm2-00.volatilestate"), seal20(t, "tpm2-fresh.volatilestate"))
			}},
		{name: "a damaged volatile state", want: []string{"state: error: remove it to start the TPM as after a power failure"},
			make: func(t *testing.T, w *ward) {
				write(t, w.in("tpm2-00.volatilestate"), flip(seal20(t, "tpm2-fresh.volatilestate")))
			}},
		{name: "a damaged savestate", v: v12, fine: true, want: []string{"state: warning: tpm-00.savestate"},
			make: func(t *testing.T, w *ward) { write(t, w.in("tpm-00.savestate"), []byte("was a state")) }},
		{name: "a damaged TPM 1.2", v: v12, want: []string{"state: error: checksum"},
			make: func(t *testing.T, w *ward) {
				write(t, w.in(v12.file()), flip([]byte(harness.Read(t, w.in(v12.file())))))
			}},
		{name: "a state of a newer libtpms", any: true, // a newer library takes it
			make: func(t *testing.T, w *ward) {
				write(t, w.in(v20.file()), seal20(t, "tpm2-head-bare.permall"))
			}},
	}
}

// backupSicknesses are the sicknesses of a state with a backup, or of the backup alone.
func backupSicknesses(states map[string][]byte) []sickness {
	good := states["2.0"]
	backup := func(bak []byte) func(*testing.T, *ward) {
		return func(t *testing.T, w *ward) {
			content(flip)(t, w)
			write(t, w.in("tpm2-00.permall.bak"), bak)
		}
	}
	with := func(option string, f func(*testing.T, *ward)) func(*testing.T, *ward) {
		return func(t *testing.T, w *ward) { f(t, w); w.tpmstate = option }
	}
	gone := func(t *testing.T, w *ward) {
		must(t, os.Rename(w.in(v20.file()), w.in("tpm2-00.permall.bak")))
	}
	return []sickness{
		{name: "a damaged state and a good backup", want: []string{"state: error: set [tpmstate] backup = true"}, make: backup(good)},
		{name: "a damaged state and a damaged backup", want: []string{"state: error: is invalid, too"}, make: backup([]byte("was a state"))},
		{name: "a damaged state and a good backup in use", fine: true, want: []string{"state: warning: checksum", "start: note: from the backup"},
			make: with("backup = true", backup(good))},
		{name: "a damaged state and a damaged backup in use", want: []string{"state: error: is invalid, too"},
			make: with("backup = true", backup([]byte("was a state")))},
		{name: "a backup alone", want: []string{"state: error: its backup"}, make: gone},
		{name: "a backup alone in use", fine: true, make: with("backup = true", gone)},
	}
}

func keySicknesses(states map[string][]byte) []sickness {
	key := func(lines, content string, mode os.FileMode) func(*testing.T, *ward) {
		return func(t *testing.T, w *ward) {
			write(t, w.at("key"), []byte(content))
			must(t, os.Chmod(w.at("key"), mode))
			w.more = fmt.Sprintf("[key]\nfile = %q\n%s\n", w.at("key"), lines)
		}
	}
	encrypted := func(f func(*testing.T, *ward)) func(*testing.T, *ward) {
		return func(t *testing.T, w *ward) {
			write(t, w.in(v20.file()), states["key"])
			if f != nil {
				f(t, w)
			}
		}
	}
	right := strings.TrimSpace(string(must1(os.ReadFile("testdata/key128.hex"))))
	return []sickness{
		{name: "an encrypted state", fine: true, make: encrypted(key("", right, 0o600))},
		{name: "a key that others can read", fine: true, want: []string{"key: warning: accessible to all users"}, make: encrypted(key("", right, 0o644))},
		{name: "no key for an encrypted state", want: []string{"state: error: no key is configured"}, make: encrypted(nil)},
		{name: "another key", want: []string{"state: error: wrong key"},
			make: encrypted(key("", strings.Repeat("fedcba98", 4), 0o600))},
		{name: "a key of another size", want: []string{"state: error: a key of 128 bits"},
			make: encrypted(key(`mode = "aes-256-cbc"`, strings.Repeat(right, 2), 0o600))},
		{name: "a key for a plain state", want: []string{"state: error: not encrypted"}, make: key("", right, 0o600)},
		{name: "a key that is too short", want: []string{"key: error: hex digits"}, make: encrypted(key("", "0123", 0o600))},
		{name: "a key that is no key", want: []string{"key: error: invalid hex digit"}, make: encrypted(key("", strings.Repeat("x", 32), 0o600))},
		{name: "a key file that is missing", want: []string{"key: error: cannot be read"},
			make: encrypted(func(t *testing.T, w *ward) { w.more = fmt.Sprintf("[key]\nfile = %q\n", w.at("none")) })},
		{name: "a key file that cannot be read", want: []string{"key: error: cannot be read"},
			make: encrypted(key("", right, 0o600)), then: func(t *testing.T, w *ward) { chmod(t, w.at("key"), 0) }},
		{name: "a key file of root", root: true, want: []string{"key: error: cannot be read"},
			make: encrypted(key("", right, 0o600)), then: func(t *testing.T, w *ward) { must(t, os.Chown(w.at("key"), 0, 0)) }},
		{name: "a fifo for a key file", want: []string{"key: error: not a regular file"},
			make: encrypted(func(t *testing.T, w *ward) {
				must(t, unix.Mkfifo(w.at("key"), 0o600))
				w.more = fmt.Sprintf("[key]\nfile = %q\n", w.at("key"))
			})},
		{name: "a key file that will be removed", fine: true, make: encrypted(key("remove = true", right, 0o600))},
		{name: "a key that will stay", fine: true, want: []string{"key: warning: cannot be removed after reading"},
			make: encrypted(func(t *testing.T, w *ward) {
				key("remove = true", right, 0o600)(t, w)
				mkdir(t, w.at("safe"))
				must(t, os.Rename(w.at("key"), w.at("safe/key")))
				w.more = fmt.Sprintf("[key]\nfile = %q\nremove = true\n", w.at("safe/key"))
			}), then: func(t *testing.T, w *ward) { chmod(t, w.at("safe"), 0o500) }},
		{name: "a migration key that is missing", want: []string{"migration-key: error: cannot be read"},
			make: func(t *testing.T, w *ward) { w.more = fmt.Sprintf("[migration-key]\nfile = %q\n", w.at("none")) }},
		{name: "a short passphrase", fine: true, want: []string{"migration-key: warning: the passphrase is short"},
			make: func(t *testing.T, w *ward) {
				write(t, w.at("pass"), []byte("abc"))
				w.more = fmt.Sprintf("[migration-key]\npwdfile = %q\n", w.at("pass"))
			}},
	}
}

// image puts the state of a TPM into a file, which f then changes.
func image(state []byte, f func(t *testing.T, w *ward, path string)) func(*testing.T, *ward) {
	return func(t *testing.T, w *ward) {
		t.Helper()
		path := w.at("image")
		w.place = fmt.Sprintf("file = %q", path)
		if state != nil {
			b, err := linear.Open(path, nv.Options{Prefix: "tpm2-00.", Mode: 0o600})
			must(t, err)
			must(t, b.Store("tpm2-00.permall", state))
			must(t, b.Close())
		}
		if f != nil {
			f(t, w, path)
		}
	}
}

func imageSicknesses(states map[string][]byte) []sickness {
	good := states["2.0"]
	bytesOf := func(f func([]byte) []byte) func(*testing.T, *ward, string) {
		return func(t *testing.T, _ *ward, path string) { write(t, path, f([]byte(harness.Read(t, path)))) }
	}
	moved := func(f func(path string) error) func(*testing.T, *ward, string) {
		return func(t *testing.T, _ *ward, path string) {
			must(t, os.Rename(path, path+"2"))
			must(t, f(path))
		}
	}
	return []sickness{
		{name: "an image", fine: true, make: image(good, nil)},
		{name: "a new image", fine: true, want: []string{"directory: note: will be created"}, make: image(nil, nil)},
		{name: "an empty image", fine: true, want: []string{"state: note: a new TPM"},
			make: image(nil, func(t *testing.T, _ *ward, path string) { write(t, path, make([]byte, 4<<20)) })},
		{name: "an image that others can read", fine: true, want: []string{"directory: warning: accessible to others"},
			make: image(good, func(t *testing.T, _ *ward, path string) { must(t, os.Chmod(path, 0o644)) })},
		{name: "an image in no directory", want: []string{"directory: error: missing directory"},
			make: func(_ *testing.T, w *ward) { w.place = fmt.Sprintf("file = %q", w.at("none/image")) }},
		{name: "an image that cannot be made", want: []string{"directory: error: cannot be created"},
			make: func(_ *testing.T, w *ward) { w.place = fmt.Sprintf("file = %q", w.in("image")) },
			then: func(t *testing.T, w *ward) { chmod(t, w.state, 0o500) }},
		{name: "an image that cannot be read", want: []string{"directory: error: cannot be read and written"}, make: image(good, nil),
			then: func(t *testing.T, w *ward) { chmod(t, w.at("image"), 0o200) }},
		{name: "an image that cannot be written", want: []string{"directory: error: cannot be read and written"}, make: image(good, nil),
			then: func(t *testing.T, w *ward) { chmod(t, w.at("image"), 0o400) }},
		{name: "an image of a stranger", root: true, want: []string{"directory: error: belongs to user 1"}, make: image(good, nil),
			then: func(t *testing.T, w *ward) { must(t, os.Chown(w.at("image"), 1, 1)); chmod(t, w.at("image"), 0o666) }},
		{name: "a link for an image", want: []string{"directory: error: symbolic link"},
			make: image(good, moved(func(path string) error { return os.Symlink(path+"2", path) }))},
		{name: "an image with two names", want: []string{"directory: error: 2 hard links"},
			make: image(good, moved(func(path string) error { return os.Link(path+"2", path) }))},
		{name: "a fifo for an image", want: []string{"directory: error: neither a regular file"},
			make: image(good, moved(func(path string) error { return unix.Mkfifo(path, 0o600) }))},
		{name: "a directory for an image", want: []string{"directory: error: neither a regular file"},
			make: image(good, moved(func(path string) error { return os.Mkdir(path, 0o700) }))},
		{name: "an image of something else", want: []string{"state: error: magic"},
			make: image(good, bytesOf(func([]byte) []byte { return []byte(strings.Repeat("this is no TPM ", 100)) }))},
		{name: "an image with a damaged header", want: []string{"state: error: "},
			make: image(good, bytesOf(func(b []byte) []byte { b[13] ^= 0x80; return b }))},
		{name: "an image with a damaged state", want: []string{"state: error: checksum"},
			make: image(good, bytesOf(func(b []byte) []byte { b[4096+1000] ^= 1; return b }))},
		{name: "an image cut short", want: []string{"state: error: "}, make: image(good, bytesOf(func(b []byte) []byte { return b[:1000] }))},
		{name: "an image in use", want: []string{"lock: error: in use by"}, // root alone sees by whom
			make: image(good, func(_ *testing.T, w *ward, _ string) { w.tpmstate = "lock = true" }),
			then: func(t *testing.T, w *ward) {
				holder := newWard(t, v20, nil)
				holder.place, holder.tpmstate = w.place, w.tpmstate
				p := harness.Start(t, exec.Command(ours("swtpm"), "run", holder.profile(t, "")))
				e := &emulator{Process: p, data: holder.at("d")}
				e.await(t, e.data)
				e.open(t, v20).alive(t) // its start writes no more, except the boot ledger
				awaitContent(t, w.at("image.boot-0001"))
			}},
		{name: "an image that wants a backup", want: []string{"profile: error: valid only with dir"},
			make: image(good, func(_ *testing.T, w *ward, _ string) { w.tpmstate = "backup = true" })},
	}
}
