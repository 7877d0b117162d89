package compare_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/test/harness"
)

// versions of the TPM: the version, and the command that starts it.
var versions = []struct {
	name, startup string
}{
	{"1.2", "00c1 0000000c 00000099 0001"},
	{"2.0", "8001 0000000c 00000144 0000"},
}

// request is sent in every state. A slash separates what is written at once.
type request struct {
	name, in string
	then     after
}

// after says what has to be done after a request.
type after uint8

const (
	again  after = 1 << iota // power on again
	reconn                   // connect again: one of the two may take bytes for requests
	mute                     // one of the two may not answer
)

var requests = []request{
	{"GET_CAPABILITY", "00000001", 0},
	{"GET_CAPABILITY with a body", "00000001 00", 0},
	{"GET_CAPABILITY twice in one write", "00000001 00000001", 0},
	{"GET_CAPABILITY in two pieces", "0000/0001", 0},
	{"GET_CAPABILITY, half of it", "0000", 0},

	{"GET_TPMESTABLISHED", "00000004", 0},
	{"GET_TPMESTABLISHED with a body", "00000004 00", 0},

	{"SET_LOCALITY 0", "00000005 00", 0},
	{"SET_LOCALITY 4", "00000005 04", 0},
	{"SET_LOCALITY 5", "00000005 05", 0},
	{"SET_LOCALITY 255", "00000005 ff", 0},
	{"SET_LOCALITY 3 padded", "00000005 03000000", 0},
	{"SET_LOCALITY in two pieces", "00000005/00", 0},
	{"SET_LOCALITY padded in pieces", "00000005 00/000000", mute},
	{"SET_LOCALITY without locality", "00000005", 0},
	{"SET_LOCALITY 0 again", "00000005 00", 0},

	{"CANCEL_TPM_CMD", "00000009", 0},
	{"CANCEL_TPM_CMD with a body", "00000009 00", 0},

	{"GET_CONFIG", "0000000f", 0},
	{"GET_CONFIG with a body", "0000000f 00", 0},

	{"SET_DATAFD without a descriptor", "00000010", 0},
	{"SET_DATAFD with a body", "00000010 00", 0},

	{"SET_BUFFERSIZE 0", "00000011 00000000", 0},
	{"SET_BUFFERSIZE 1", "00000011 00000001", 0},
	{"SET_BUFFERSIZE 3500", "00000011 00000dac", 0},
	{"SET_BUFFERSIZE 0 with surplus", "00000011 00000000 01", 0},
	{"SET_BUFFERSIZE too big", "00000011 ffffffff", 0},
	{"SET_BUFFERSIZE with half a size", "00000011 0000", 0},
	{"SET_BUFFERSIZE without size", "00000011", 0},

	{"GET_INFO 1", "00000012 0000000000000001 00000000 00000000", 0},
	{"GET_INFO 7", "00000012 0000000000000007 00000000 00000000", 0},
	{"GET_INFO 4", "00000012 0000000000000004 00000000 00000000", 0},
	{"GET_INFO 0", "00000012 0000000000000000 00000000 00000000", 0},
	{"GET_INFO high flags", "00000012 ffffffff00000000 00000000 00000000", 0},
	{"GET_INFO 1 at 5", "00000012 0000000000000001 00000005 00000000", 0},
	{"GET_INFO 0 at 1", "00000012 0000000000000000 00000001 00000000", 0},
	{"GET_INFO 0 at the NUL", "00000012 0000000000000000 00000002 00000000", 0},
	{"GET_INFO 1 behind the end", "00000012 0000000000000001 ffffffff 00000000", 0},
	{"GET_INFO with surplus", "00000012 0000000000000000 00000000 00000000 00", 0},
	{"GET_INFO without padding", "00000012 0000000000000001 00000000", 0},
	{"GET_INFO without body", "00000012", 0},

	{"LOCK_STORAGE 0", "00000013 00000000", 0},
	{"LOCK_STORAGE 300", "00000013 0000012c", 0},
	{"LOCK_STORAGE with surplus", "00000013 00000000 00", 0},
	{"LOCK_STORAGE with half a number", "00000013 0000", 0},
	{"LOCK_STORAGE without number", "00000013", 0},

	{"request 0", "00000000", 0},
	{"request 0x14", "00000014", 0},
	{"request 0x14 with a body", "00000014 01020304", 0},
	{"request 0xffffffff", "ffffffff", 0},

	{"HASH_DATA without START", "00000007 00000000", again},
	{"HASH_START with a body", "00000006 00", 0},
	{"HASH_END with a body", "00000008 00", 0},
	{"HASH_DATA with too many bytes", "00000007 00000003 01020304", mute | again},
	{"HASH_DATA with too few bytes", "00000007 00000004 0102", 0},
	{"HASH_DATA with half a length", "00000007 0000", 0},
	{"HASH_DATA without length", "00000007", 0},
	{"STORE_VOLATILE with a body", "0000000a 00", 0},
	{"STOP with a body", "0000000e 00", 0},
	{"SHUTDOWN with a body", "00000003 00", 0},
	{"INIT with a long body", "00000002 00000000 00", 0},
	{"INIT with half a body", "00000002 0000", 0},
	{"INIT without body", "00000002", 0},

	{"RESET_TPMESTABLISHED 0", "0000000b 00", 0},
	{"RESET_TPMESTABLISHED 3", "0000000b 03", 0},
	{"RESET_TPMESTABLISHED 4 padded", "0000000b 04000000", 0},
	{"RESET_TPMESTABLISHED 5", "0000000b 05", 0},
	{"RESET_TPMESTABLISHED without locality", "0000000b", 0},

	{"GET_STATEBLOB permanent", "0000000c 00000000 00000001 00000000", 0},
	{"GET_STATEBLOB permanent decrypted", "0000000c 00000001 00000001 00000000", 0},
	{"GET_STATEBLOB other flags", "0000000c fffffffe 00000001 00000000", 0},
	{"GET_STATEBLOB at 10", "0000000c 00000000 00000001 0000000a", 0},
	{"GET_STATEBLOB behind the end", "0000000c 00000000 00000001 7fffffff", 0},
	{"GET_STATEBLOB far behind the end", "0000000c 00000000 00000001 ffffffff", 0},
	{"GET_STATEBLOB with surplus", "0000000c 00000000 00000001 00000000 00", 0},
	{"GET_STATEBLOB in two pieces", "0000000c 00000000/00000001 00000000", 0},
	{"GET_STATEBLOB type 0", "0000000c 00000000 00000000 00000000", 0},
	{"GET_STATEBLOB type 4", "0000000c 00000000 00000004 00000000", 0},
	{"GET_STATEBLOB with a short body", "0000000c 00000000 00000001 000000", 0},

	{"SET_STATEBLOB of type 0", "0000000d 00000000 00000000 00000004 01020304", 0},
	{"SET_STATEBLOB of type 4", "0000000d 00000000 00000004 00000000", 0},
	{"SET_STATEBLOB with too many bytes", "0000000d 00000000 00000001 00000002 01020304", 0},
	{"SET_STATEBLOB with too few bytes", "0000000d 00000000 00000001 00000008 01020304", 0},
	{"SET_STATEBLOB with a short header", "0000000d 00000000 00000001 0000", 0},
	{"SET_STATEBLOB of four bytes", "0000000d 00000000 00000001 00000004 01020304", 0},
	{"SET_STATEBLOB in pieces", "0000000d/00000000 00000001 00000004/01020304", 0},
	{"SET_STATEBLOB of zeros", "0000000d 00000000 00000001 00000010 00*16", 0},
	{"SET_STATEBLOB of min_version 3", "0000000d 00000000 00000001 00000010 0203000a 0004 00000010 0004 00000000", 0},
	{"SET_STATEBLOB of another header size", "0000000d 00000000 00000001 00000010 0201000b 0004 00000010 0004 00000000", 0},
	{"SET_STATEBLOB without migration block", "0000000d 00000000 00000001 00000016 0201000a 0000 00000016 0001 00000006 010203040506", 0},
	{"SET_STATEBLOB of garbage in good blocks", "0000000d 00000000 00000001 00000020 0201000a 0004 00000020 0004 00000010 0001 0000000a 01020304050607080910", 0},
	{"SET_STATEBLOB encrypted, no key", "0000000d 00000002 00000001 00000020 0201000a 0004 00000020 0004 00000010 0001 0000000a 01020304050607080910", 0},
	{"SET_STATEBLOB marked encrypted, no key", "0000000d 00000000 00000001 00000020 0201000a 0005 00000020 0004 00000010 0002 0000000a 01020304050607080910", 0},
	{"SET_STATEBLOB for migration, no key", "0000000d 00000000 00000001 00000020 0201000a 0006 00000020 0005 00000010 0002 0000000a 01020304050607080910", 0},
	{"SET_STATEBLOB of a header alone", "0000000d 00000000 00000002 0000000a 0201000a 0004 0000000a", 0},
	{"SET_STATEBLOB of a header alone, encrypted", "0000000d 00000002 00000002 0000000a 0201000a 0006 0000000a", 0},
	{"SET_STATEBLOB of a long one with garbage", "0000000d 00000000 00000001 00002000 00*8192", reconn | mute},
	{"SET_STATEBLOB of half a savestate", "0000000d 00000000 00000003 00000004 01020304", 0},

	{"HASH_START", "00000006", 0},
	{"HASH_DATA", "00000007 00000004 01020304", 0},
	{"HASH_DATA of nothing", "00000007 00000000", 0},
	{"HASH_DATA in pieces", "00000007/00000004/0102/0304", 0},
	{"HASH_DATA over a buffer", "00000007 00001800 00*6144", reconn | mute},
	{"HASH_DATA over many buffers", "00000007 00010000 01*65536", reconn | mute},
	{"HASH_END", "00000008", 0},
	{"GET_TPMESTABLISHED after the hash", "00000004", 0},
	{"RESET_TPMESTABLISHED 4", "0000000b 04", 0},
	{"GET_TPMESTABLISHED after the reset", "00000004", 0},

	{"STORE_VOLATILE", "0000000a", 0},
	{"GET_STATEBLOB volatile", "0000000c 00000001 00000002 00000000", 0},
	{"GET_STATEBLOB savestate", "0000000c 00000001 00000003 00000000", 0},
	{"LOCK_STORAGE after the savestate", "00000013 00000000", again},
	{"STOP", "0000000e", 0},
	{"STOP again", "0000000e", again},
	{"INIT", "00000002 00000000", 0},
	{"INIT again, deleting", "00000002 00000001", 0},
	{"INIT with unknown flags", "00000002 fffffffe", again},
	{"SHUTDOWN", "00000003", 0}, // the last: it ends the process
}

var states = []string{"off", "on", "started", "stopped"}

// pair is the reference and ours.
type pair struct {
	version string
	old     bool // the reference is 0.7
	one     [2]*instance
}

func startPair(t *testing.T, version string, args ...string) *pair {
	t.Helper()
	p := &pair{version: version, old: strings.HasPrefix(referenceVersion(t), "0.7.")}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p.one[0] = start(t, reference, version, args...)
	if p.old { // it sends no TPM2_Shutdown by itself, which changes the state
		args = append(args, "--flags", "disable-auto-shutdown")
	}
	p.one[1] = start(t, path, version, args...)
	return p
}

// both runs f on the reference and on ours at the same time.
func (p *pair) both(f func(i *instance, capability []byte) string) (theirs, ours string) {
	done := make(chan struct{})
	go func() {
		theirs = f(p.one[0], p.capability(true))
		close(done)
	}()
	ours = f(p.one[1], p.capability(false))
	<-done
	return theirs, ours
}

// capability is the reply to the sentinel.
func (p *pair) capability(theirs bool) []byte {
	b := harness.Unhex("00000000 00017fff")
	if p.version == "2.0" {
		b = harness.Unhex("00000000 0001ffff")
	}
	if theirs && p.old {
		b[5] = 0 // no LOCK_STORAGE
	}
	return b
}

// request sends a request to both.
func (p *pair) request(in string) (theirs, ours string) { return p.requestFor(harness.Patience, in) }

// requestFor gives up after d.
func (p *pair) requestFor(d time.Duration, in string) (theirs, ours string) {
	var pieces [][]byte
	for piece := range strings.SplitSeq(in, "/") {
		pieces = append(pieces, harness.Unhex(piece))
	}
	return p.both(func(i *instance, capability []byte) string { return i.ctrl.request(capability, d, pieces...) })
}

// enter brings both into a state.
func (p *pair) enter(t *testing.T, state, startup string) {
	t.Helper()
	for _, in := range map[string][]string{
		"off":     nil,
		"on":      {"00000002 00000000"},
		"started": {"00000002 00000000", "00000005 00"}, // locality 4 may not start it
		"stopped": {"00000002 00000000", "0000000e"},
	}[state] {
		if theirs, ours := p.request(in); theirs != "00000000" || ours != "00000000" {
			t.Fatalf("to state %s: request %s = %s and %s, want success", state, in, theirs, ours)
		}
	}
	if state != "started" {
		return
	}
	for _, i := range p.one {
		i.data.connect(t, i)
	}
	theirs, ours := p.both(func(i *instance, _ []byte) string { return i.data.command(10, harness.Unhex(startup)) })
	for _, i := range p.one {
		i.data.close()
	}
	p.check(t, state, "TPM Startup", theirs, ours)
}

// TestRequests sends every request in every state.
func TestRequests(t *testing.T) {
	referenceVersion(t)
	for _, v := range versions {
		for _, state := range states {
			t.Run(v.name+"/"+state, func(t *testing.T) {
				t.Parallel()
				p := startPair(t, v.name)
				p.enter(t, state, v.startup)
				for _, r := range requests {
					p.try(t, state, r)
					if r.then&again != 0 {
						p.enter(t, state, v.startup)
					}
				}
				for _, i := range p.one {
					if code := i.Wait(t); code != 0 {
						t.Errorf("%s: exit code %d after SHUTDOWN, want 0", i.Cmd.Path, code)
					}
				}
			})
		}
	}
}

// try sends one request and compares.
func (p *pair) try(t *testing.T, state string, r request) {
	t.Helper()
	d := harness.Patience
	if r.then&mute != 0 {
		d = silence
	}
	theirs, ours := p.requestFor(d, r.in)
	theirs, ours = blobReply(r.name, theirs), blobReply(r.name, ours)
	if r.name == "GET_STATEBLOB volatile" || state == "started" { // it holds clocks and nonces
		theirs, ours = head(theirs, 32), head(ours, 32)
	}
	p.check(t, state, r.name, theirs, ours)
	if r.then&mute == 0 && strings.HasSuffix(theirs+ours, "silence") {
		t.Errorf("TPM %s, %s: %s: no answer", p.version, state, r.name)
	}
	if r.name == "SHUTDOWN" {
		return
	}
	for n, reply := range []string{theirs, ours} {
		if strings.HasSuffix(reply, "closed") || r.then&(reconn|mute) != 0 {
			p.one[n].ctrl.connect(t, p.one[n])
		}
	}
}

// head leaves the first n digits and the length.
func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return fmt.Sprintf("%s+%d", s[:n], (len(s)-n)/2)
}

// blobReply leaves of a reply with a state blob its result, its flags and the payload
// of a plain blob: ours has a record that the reference skips, and IVs are random.
func blobReply(name, reply string) string {
	if !strings.HasPrefix(name, "GET_STATEBLOB") || len(reply) <= 32 {
		return reply
	}
	p, err := seal.Keys{}.OpenBlob(harness.Unhex(reply[32:]), false)
	if err != nil {
		return reply[:16]
	}
	return reply[:16] + hex.EncodeToString(p)
}

// setState returns a SET_STATEBLOB request.
func setState(t *testing.T, typ int, file string) string {
	t.Helper()
	b, err := os.ReadFile(vectors + file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("0000000d 00000000 %08x %08x/%s", typ, len(b), hex.EncodeToString(b))
}

// TestMigration hands real blobs over, in good and in bad orders.
func TestMigration(t *testing.T) {
	referenceVersion(t)
	const initReq, stop = "00000002 00000000", "0000000e"
	empty := func(typ int) string { return fmt.Sprintf("0000000d 00000000 %08x 00000000", typ) }
	for _, v := range versions {
		dir := vectorNames[v.name]
		plain := func(typ int, file string) string { return setState(t, typ, dir+"-plain/"+file) }
		for _, c := range []struct {
			name  string
			steps []string
		}{
			{"permanent", []string{plain(1, "permanent.blob"), initReq, stop, initReq}},
			{"permanent, volatile", []string{plain(1, "permanent.blob"), plain(2, "volatile.blob"), initReq, stop, initReq}},
			{"with an empty savestate", []string{plain(1, "permanent.blob"), plain(2, "volatile.blob"), empty(3), initReq}},
			{"volatile first", []string{plain(2, "volatile.blob"), initReq}},
			{"volatile as permanent", []string{plain(1, "volatile.blob"), initReq}},
			{"permanent as volatile", []string{plain(1, "permanent.blob"), plain(2, "permanent.blob"), initReq}},
			{"permanent twice", []string{plain(1, "permanent.blob"), plain(1, "permanent.blob"), initReq}},
			{"volatile hidden", []string{plain(1, "permanent.blob"), empty(2), initReq}},
			{"permanent as savestate", []string{plain(1, "permanent.blob"), plain(3, "permanent.blob")}},
			{"encrypted, no key", []string{setState(t, 1, dir+"-key128-hex/permanent.blob")}},
			{"migration key missing", []string{setState(t, 1, dir+"-mig128/permanent.blob")}},
			{"empty permanent", []string{empty(1)}},
			{"a state file", []string{setState(t, 1, dir+"-plain/"+stateFiles[v.name]+"permall")}},
		} {
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := startPair(t, v.name)
				for n, in := range c.steps {
					theirs, ours := p.request(in)
					p.check(t, "migration", fmt.Sprintf("%s: step %d", c.name, n+1), theirs, ours)
				}
			})
		}
	}
}

// TestMigrationKeys hands encrypted blobs to emulators with and without keys.
func TestMigrationKeys(t *testing.T) {
	referenceVersion(t)
	for _, v := range versions {
		dir := vectors + vectorNames[v.name]
		file := func(of string) string { return "file=" + dir + of + "/keyfile.hex" }
		const pwd = ",kdf=pbkdf2"
		for _, c := range []struct{ name, key, migration, blob string }{
			{"both keys", file("-mig128pwd-key128"), "pwdfile=" + dir + "-mig128pwd-key128/migpwd" + pwd, "-mig128pwd-key128/permanent.blob"},
			{"both keys, plain inside", file("-mig128pwd-key128"), "pwdfile=" + dir + "-mig128pwd-key128/migpwd" + pwd, "-mig128pwd-key128/permanent.decrypted.blob"},
			{"file key missing", "", "pwdfile=" + dir + "-mig128pwd-key128/migpwd" + pwd, "-mig128pwd-key128/permanent.blob"},
			{"migration key missing", file("-mig128pwd-key128"), "", "-mig128pwd-key128/permanent.blob"},
			{"wrong migration key", "", file("-key128-hex"), "-mig128/permanent.blob"},
			{"migration key of another size", "", "file=" + dir + "-key256-bin/keyfile.bin,format=binary,mode=aes-256-cbc", "-mig128/permanent.blob"},
			{"migration key not needed", "", "file=" + dir + "-mig128/migkey.hex", "-plain/permanent.blob"},
			{"right migration key", "", "file=" + dir + "-mig128/migkey.hex", "-mig128/permanent.blob"},
			{"right file key", file("-key128-hex"), "", "-key128-hex/permanent.blob"},
			{"right file key, plain inside", file("-key128-hex"), "", "-key128-hex/permanent.decrypted.blob"},
			{"wrong file key", file("-mig128pwd-key128"), "", "-key128-hex/permanent.blob"},
			{"file key of another size", "file=" + dir + "-key256-bin/keyfile.bin,format=binary,mode=aes-256-cbc", "", "-key128-hex/permanent.blob"},
		} {
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				var args []string
				if c.key != "" {
					args = append(args, "--key", c.key)
				}
				if c.migration != "" {
					args = append(args, "--migration-key", c.migration)
				}
				p := startPair(t, v.name, args...)
				for _, i := range p.one { // it is plain, and the emulator may have a key
					if err := os.Remove(i.dir + "/" + stateFiles[v.name] + "permall"); err != nil {
						t.Fatal(err)
					}
				}
				steps := []request{
					{"SET_STATEBLOB", setState(t, 1, vectorNames[v.name]+c.blob), 0},
					{"GET_CONFIG", "0000000f", 0},
					{"INIT", "00000002 00000000", 0},
					{"GET_STATEBLOB", "0000000c 00000000 00000001 00000000", 0},
					{"GET_STATEBLOB decrypted", "0000000c 00000001 00000001 00000000", 0},
				}
				for _, r := range steps {
					theirs, ours := p.request(r.in)
					if strings.HasPrefix(r.name, "GET_STATEBLOB") { // keys of a new TPM are random
						theirs, ours = head(blobReply(r.name, theirs), 16), head(blobReply(r.name, ours), 16)
					}
					p.check(t, "migration keys", c.name+": "+r.name, theirs, ours)
				}
			})
		}
	}
}

// TestKeys powers on with keys that fit the state, and with those that do not.
func TestKeys(t *testing.T) {
	referenceVersion(t)
	for _, v := range versions {
		prefix := stateFiles[v.name]
		dir := vectorNames[v.name]
		for _, c := range []struct{ name, state, key string }{
			{"right key", "-key128-hex", "file=" + vectors + dir + "-key128-hex/keyfile.hex"},
			{"no key", "-key128-hex", ""},
			{"wrong key", "-key128-hex", "file=" + vectors + dir + "-mig128pwd-key128/keyfile.hex"},
			{"wrong size", "-key128-hex", "file=" + vectors + dir + "-key256-bin/keyfile.bin,format=binary,mode=aes-256-cbc"},
			{"right 256", "-key256-bin", "file=" + vectors + dir + "-key256-bin/keyfile.bin,format=binary,mode=aes-256-cbc"},
			{"plain with key", "-plain", "file=" + vectors + dir + "-key128-hex/keyfile.hex"},
			{"plain with key 256", "-plain", "file=" + vectors + dir + "-key256-bin/keyfile.bin,format=binary,mode=aes-256-cbc"},
		} {
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				var args []string
				if c.key != "" {
					args = []string{"--key", c.key}
				}
				p := startPair(t, v.name, args...)
				b, err := os.ReadFile(vectors + dir + c.state + "/" + prefix + "permall")
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range p.one {
					if err := os.WriteFile(i.dir+"/"+prefix+"permall", b, 0o640); err != nil {
						t.Fatal(err)
					}
				}
				for _, r := range []struct{ name, in string }{
					{"INIT", "00000002 00000000"},
					{"GET_CONFIG", "0000000f"},
					{"GET_STATEBLOB permanent", "0000000c 00000000 00000001 00000000"},
					{"GET_STATEBLOB permanent decrypted", "0000000c 00000001 00000001 00000000"},
				} {
					theirs, ours := p.request(r.in)
					if strings.HasPrefix(r.name, "GET_STATEBLOB") { // keys of a new TPM are random
						theirs, ours = head(blobReply(r.name, theirs), 16), head(blobReply(r.name, ours), 16)
					}
					p.check(t, "keys", c.name+": "+r.name, theirs, ours)
				}
			})
		}
	}
}

// TestDamage powers on with state files that are damaged.
func TestDamage(t *testing.T) {
	referenceVersion(t)
	for _, v := range versions {
		for _, c := range []struct {
			name, file string
			damage     func(permall []byte) []byte
		}{
			{"volatile of garbage", "volatilestate", func([]byte) []byte { return []byte("garbage, and some more of it") }},
			{"volatile in a good container", "volatilestate", func(b []byte) []byte { return b }},
			{"permanent cut short", "permall", func(b []byte) []byte { return b[:100] }},
			{"permanent of no bytes", "permall", func([]byte) []byte { return nil }},
			{"permanent of another version", "permall", func(b []byte) []byte { b[1] = 3; return b }},
			{"permanent with another header size", "permall", func(b []byte) []byte { b[3] = 11; return b }},
		} {
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := startPair(t, v.name)
				for _, i := range p.one {
					name := i.dir + "/" + stateFiles[v.name]
					b, err := os.ReadFile(name + "permall")
					if err == nil {
						err = os.WriteFile(name+c.file, c.damage(b), 0o640)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				theirs, ours := p.request("00000002 00000000")
				p.check(t, "damage", c.name, theirs, ours)
			})
		}
	}
}
