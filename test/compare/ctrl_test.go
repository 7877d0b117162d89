package compare_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

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

var states = []string{"off", "on", "started", "stopped"}

// runs reports whether a row runs with this version. The code that opens blobs and finds keys does
// not look into the TPM, so that each row runs with a TPM 2.0, and the chosen rows with a TPM 1.2,
// which generates an RSA key at each INIT. SWTPM_TEST_FULL=1 runs all rows.
func runs(version string, chosen bool) bool {
	return version == "2.0" || chosen || os.Getenv("SWTPM_TEST_FULL") != ""
}

// TestRequests checks that both answer every request alike in every state.
func TestRequests(t *testing.T) {
	referenceVersion(t)
	for _, v := range versions {
		for _, state := range states {
			if !runs(v.name, state != "stopped") { // like off
				continue
			}
			t.Run(v.name+"/"+state, func(t *testing.T) {
				t.Parallel()
				compare(t, v.name, nil, func(p *pair) { p.requests(t, state, v.startup) })
			})
		}
	}
}

// requests sends all requests in a state, the last of which ends both.
func (p *pair) requests(t *testing.T, state, startup string) {
	t.Helper()
	if !p.enter(t, state, startup) {
		return
	}
	for _, r := range requests {
		p.try(t, state, r)
		if p.left || r.then&again != 0 && !p.enter(t, state, startup) {
			return
		}
	}
	for _, i := range p.one {
		if code := i.Wait(t); code != 0 {
			t.Errorf("%s: exit code %d after SHUTDOWN, want 0", i.Cmd.Path, code)
		}
	}
}

// try sends one request and compares.
func (p *pair) try(t *testing.T, state string, r request) {
	t.Helper()
	d := harness.EventTimeout
	if r.then&mute != 0 {
		d = 3 * silence // the other one may answer late on a busy machine
	}
	theirs, ours := p.requestFor(d, r.in)
	theirs, ours = blobReply(r.name, theirs), blobReply(r.name, ours)
	if r.name == "GET_STATEBLOB volatile" || state == "started" { // it holds clocks and nonces
		theirs, ours = head(theirs, 32), head(ours, 32)
	}
	p.check(state, r.name, theirs, ours)
	if r.then&mute == 0 && strings.HasSuffix(theirs+ours, "silence") {
		p.fail(theirs, ours, "TPM %s, %s: %s: no answer", p.version, state, r.name)
	}
	if r.name == "SHUTDOWN" || p.left {
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

// blobReply returns of a reply with a state blob only the result, the flags and the payload of a
// plain blob: ours has a record that the reference skips, and IVs are random.
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

// TestMigration checks the replies to SET_STATEBLOB with real blobs, in good and in bad orders.
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
			if once := len(c.steps) == 1 || strings.Contains(c.name, " as "); !runs(v.name, once || c.name == "with an empty savestate") {
				continue
			}
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				compare(t, v.name, nil, func(p *pair) {
					for n, in := range c.steps {
						theirs, ours := p.request(in)
						p.check("migration", fmt.Sprintf("%s: step %d", c.name, n+1), theirs, ours)
					}
				})
			})
		}
	}
}

// TestMigrationKeys checks the replies to encrypted blobs of emulators with and without keys.
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
			if !runs(v.name, c.name == "both keys") {
				continue
			}
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				var args []string
				if c.key != "" {
					args = append(args, "--key", c.key)
				}
				if c.migration != "" {
					args = append(args, "--migration-key", c.migration)
				}
				steps := []request{
					{"SET_STATEBLOB", setState(t, 1, vectorNames[v.name]+c.blob), 0},
					{"GET_CONFIG", "0000000f", 0},
					{"INIT", "00000002 00000000", 0},
					{"GET_STATEBLOB", "0000000c 00000000 00000001 00000000", 0},
					{"GET_STATEBLOB decrypted", "0000000c 00000001 00000001 00000000", 0},
				}
				compare(t, v.name, args, func(p *pair) {
					for _, i := range p.one { // it is plain, and the emulator may have a key
						if err := os.Remove(i.dir + "/" + stateFiles[v.name] + "permall"); err != nil {
							t.Fatal(err)
						}
					}
					p.steps("migration keys", c.name, steps)
				})
			})
		}
	}
}

// steps sends requests to TPMs whose keys are random.
func (p *pair) steps(state, name string, all []request) {
	for _, r := range all {
		theirs, ours := p.request(r.in)
		if strings.HasPrefix(r.name, "GET_STATEBLOB") {
			theirs, ours = head(blobReply(r.name, theirs), 16), head(blobReply(r.name, ours), 16)
		}
		p.check(state, name+": "+r.name, theirs, ours)
	}
}

// TestKeys checks that both power on with keys that fit the state, and fail alike with others.
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
			if !runs(v.name, c.name == "right key") {
				continue
			}
			t.Run(v.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				var args []string
				if c.key != "" {
					args = []string{"--key", c.key}
				}
				b, err := os.ReadFile(vectors + dir + c.state + "/" + prefix + "permall")
				if err != nil {
					t.Fatal(err)
				}
				compare(t, v.name, args, func(p *pair) {
					for _, i := range p.one {
						if err := os.WriteFile(i.dir+"/"+prefix+"permall", b, 0o640); err != nil {
							t.Fatal(err)
						}
					}
					p.steps("keys", c.name, []request{
						{"INIT", "00000002 00000000", 0},
						{"GET_CONFIG", "0000000f", 0},
						{"GET_STATEBLOB permanent", "0000000c 00000000 00000001 00000000", 0},
						{"GET_STATEBLOB permanent decrypted", "0000000c 00000001 00000001 00000000", 0},
					})
				})
			})
		}
	}
}

// TestDamage checks that both answer INIT alike if a state file is damaged.
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
				compare(t, v.name, nil, func(p *pair) {
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
					p.check("damage", c.name, theirs, ours)
				})
			})
		}
	}
}
