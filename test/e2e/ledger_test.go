package e2e_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// runsVar is the number of random runs of TestLedgerReplay.
const runsVar = "SWTPM_TEST_LEDGER_RUNS"

// measured is a TPM with a guest that measures at random.
type measured struct {
	*resumableTPM
	*rand.Rand
	boot   uint64 // the last one that was checked
	broken bool   // this boot may be joined
	nv     bool   // the NV index exists
	key    bool   // the state is encrypted
	did    map[string]int
}

func (v version) prefix() string {
	if v == v12 {
		return "tpm-00"
	}
	return "tpm2-00"
}

// TestLedgerReplay checks that the records of random runs give the values that the TPM
// reports, or say that the boot is joined.
func TestLedgerReplay(t *testing.T) {
	runs := 8
	var steps steps
	t.Cleanup(func() { steps.check(t) })
	if n, err := strconv.Atoi(os.Getenv(runsVar)); err == nil {
		runs = n
	}
	for i := range runs {
		v := v20
		if i%4 == 1 { // its starts take most of the time
			v = v12
		}
		t.Run(fmt.Sprintf("%s/%d", v, i), func(t *testing.T) {
			t.Parallel()
			key := i%8 >= 4
			m := &measured{resumableTPM: newRecorded(t, v, key), Rand: rand.New(rand.NewPCG(15, uint64(i))), key: key, did: map[string]int{}}
			for range 3 {
				for range 10 + m.IntN(30) {
					m.step(t)
				}
				m.endBoot(t)
			}
			steps.add(m.did)
		})
	}
}

// steps counts what all runs did.
type steps struct {
	sync.Mutex
	all map[string]int
}

func (s *steps) add(did map[string]int) {
	s.Lock()
	defer s.Unlock()
	if s.all == nil {
		s.all = map[string]int{}
	}
	for name, n := range did {
		s.all[name] += n
	}
}

// check checks that nothing was left out.
func (s *steps) check(t *testing.T) {
	t.Helper()
	t.Logf("steps: %v", s.all)
	for _, name := range []string{"boot", "extend", "event", "event sequence", "reset", "HASH_START", "NV_Extend", "restart", "kill", "snapshot", "migration"} {
		if s.all[name] == 0 {
			t.Errorf("no run had the step %q: %v", name, s.all)
		}
	}
}

// newRecorded starts a TPM that records its boots, and powers it on. prepare changes the directory
// of its state before.
func newRecorded(t *testing.T, v version, key bool, prepare ...func(state string)) *resumableTPM {
	t.Helper()
	return newRecordedOff(t, v, key, prepare...).power(t)
}

// newRecordedOff is newRecorded without the power.
func newRecordedOff(t *testing.T, v version, key bool, prepare ...func(state string)) *resumableTPM {
	t.Helper()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	for _, f := range prepare {
		f(filepath.Join(dir, "state"))
	}
	profile := mustRun(t, ours("swtpm"), append([]string{"convert", "--"}, resumableArgs(t, v, key, dir)...)...)
	path := filepath.Join(dir, "profile.toml")
	write(t, path, []byte(profile))
	return newResumableBy(t, v, dir, "run", path)
}

// pcrs returns all values that the TPM reports.
func (m *measured) pcrs(t *testing.T) (all []ledger.Bank) {
	t.Helper()
	if m.v == v12 {
		b := ledger.Bank{Alg: ledger.SHA1, Mask: 1<<ledger.PCRs - 1}
		for pcr := range ledger.PCRs {
			b.Values = append(b.Values, m.data.ok(t, fmt.Sprintf("00c1 0000000e 00000015 %08x", pcr))[10:])
		}
		return []ledger.Bank{b}
	}
	for _, alg := range []ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512} {
		b := ledger.Bank{Alg: alg}
		for first := range 3 {
			var sel [3]byte
			sel[first] = 0xff
			rsp := m.data.ok(t, fmt.Sprintf("8001 00000014 0000017e 00000001 %04x 03 %x", uint16(alg), sel))
			for p := rsp[10+4+4+6+4:]; len(p) > 0; p = p[2+alg.Size():] {
				b.Mask |= 1 << (8*first + len(b.Values)%8)
				b.Values = append(b.Values, p[2:2+alg.Size()])
			}
		}
		if b.Mask != 0 {
			all = append(all, b)
		}
	}
	return all
}

// endBoot powers the TPM off, checks the file of the boot, and powers it on again.
func (m *measured) endBoot(t *testing.T) {
	t.Helper()
	want := m.pcrs(t)
	if m.IntN(2) == 0 {
		m.data.ok(t, map[version]string{v12: "00c1 0000000a 00000098", v20: "8001 0000000c 00000145 0000"}[m.v])
	}
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	b, joined := m.endedBoot(t, want)
	if joined && !m.broken {
		t.Errorf("boot %d is joined without a reason; log:\n%s", b.Boot, m.Out.String())
	}
	m.boot = b.Boot
	m.broken = false
	m.did["boot"]++
	if err := m.ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	m.data.ok(t, m.data.startup())
}

// endedBoot waits until the records of the boot are written and give the values want.
func (m *measured) endedBoot(t *testing.T, want []ledger.Bank) (b *ledger.Boot, joined bool) {
	t.Helper()
	var mismatch error
	err := harness.Until(func() bool {
		b = lastBoot(filepath.Join(m.dir, "state"), m.v)
		if b == nil || b.Boot <= m.boot || len(b.Records) == 0 || b.Records[len(b.Records)-1].Kind != ledger.KindEnd {
			return false
		}
		var s *ledger.State
		if s, joined, mismatch = b.Replay(nil); mismatch == nil {
			mismatch = s.Check(want)
		}
		return mismatch == nil
	})
	if err != nil {
		t.Fatalf("the last boot is %+v, joined %t, %v; log:\n%s", b, joined, mismatch, m.Out.String())
	}
	return b, joined
}

// lastBoot returns the last boot in a directory, nil if it has none that is intact.
func lastBoot(dir string, v version) *ledger.Boot { return lastBootOf(dir, v.prefix()) }

// lastBootOf is lastBoot of files with a prefix.
func lastBootOf(dir, prefix string) *ledger.Boot {
	names, _ := filepath.Glob(filepath.Join(dir, prefix+".boot-*"))
	if len(names) == 0 {
		return nil
	}
	content, err := os.ReadFile(names[len(names)-1])
	if err != nil {
		return nil
	}
	b, err := ledger.Parse(content)
	if err != nil || b.Damage != nil {
		return nil
	}
	return b
}

// awaitBoot waits until the boot ledger in a directory has the beginning of a boot: it is written
// a moment after the response to the Startup.
func awaitBoot(t testing.TB, dir string, v version) {
	t.Helper()
	if err := harness.Until(func() bool { b := lastBoot(dir, v); return b != nil && len(b.Records) > 0 }); err != nil {
		t.Fatalf("no boot is recorded in %s: %v", dir, err)
	}
}

// awaitContent waits until a file has content.
func awaitContent(t testing.TB, path string) {
	t.Helper()
	if err := harness.Until(func() bool { fi, err := os.Stat(path); return err == nil && fi.Size() > 0 }); err != nil {
		t.Fatalf("%s has no content", path)
	}
}

// step does something that a guest or a host does.
func (m *measured) step(t *testing.T) {
	t.Helper()
	switch m.IntN(20) {
	case 0, 1:
		m.did["reset"]++
		m.data.ok(t, map[version]string{v12: "00c1 0000000f 000000c8 0003 000001", v20: "8002 0000001b 0000013d 00000017 00000009 40000009 0000 00 0000"}[m.v])
	case 2:
		m.did["HASH_START"]++
		m.sequence(t)
	case 3:
		m.nvExtend(t)
	case 4, 5, 6:
		m.event(t)
	case 7:
		m.did["restart"]++
		m.restart(t)
	case 8:
		if m.IntN(3) == 0 {
			m.did["kill"]++
			m.crash(t, unix.SIGKILL)
			m.broken = true
		}
	case 9:
		if m.IntN(2) == 0 {
			m.did["snapshot"]++
			m.snapshot(t)
		} else {
			m.did["migration"]++
			m.migrate(t)
		}
	default:
		m.did["extend"]++
		m.extendAny(t)
	}
}

func (m *measured) digest(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return hex.EncodeToString(b)
}

// extendAny extends a PCR in one or several banks.
func (m *measured) extendAny(t *testing.T) {
	t.Helper()
	pcr := m.IntN(17)
	if m.v == v12 {
		m.data.ok(t, fmt.Sprintf("00c1 00000022 00000014 %08x", pcr)+m.digest(20))
		return
	}
	body, n := "", 0
	for _, alg := range []ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512} {
		if m.IntN(2) == 0 {
			body += fmt.Sprintf("%04x", uint16(alg)) + m.digest(alg.Size())
			n++
		}
	}
	size := 10 + 4 + 4 + 9 + 4 + len(body)/2
	m.data.ok(t, fmt.Sprintf("8002 %08x 00000182 %08x 00000009 40000009 0000 00 0000 %08x", size, pcr, n)+body)
}

// event measures data that the TPM hashes: with one command, or with a sequence.
func (m *measured) event(t *testing.T) {
	t.Helper()
	pcr, data := m.IntN(16), m.digest(64)
	if m.v == v12 {
		m.data.ok(t, sha1Start12)
		m.data.ok(t, sha1Add12+data)
		m.data.ok(t, fmt.Sprintf("00c1 00000012 000000a3 %08x 00000000", pcr))
		return
	}
	if m.IntN(2) == 0 {
		m.did["event"]++
		m.data.ok(t, fmt.Sprintf("8002 0000005d 0000013c %08x 00000009 40000009 0000 00 0000 0040", pcr)+data)
		return
	}
	m.did["event sequence"]++
	object := binary.BigEndian.Uint32(m.data.ok(t, "8001 0000000e 00000186 0000 0010")[10:])
	m.data.ok(t, fmt.Sprintf("8002 0000005d 0000015c %08x 00000009 40000009 0000 00 0000 0040", object)+data)
	m.data.ok(t, fmt.Sprintf("8002 0000002a 00000185 %08x %08x 00000012 40000009 0000 00 0000 40000009 0000 00 0000 0000", pcr, object))
}

// nvExtend extends an NV index, which is in no PCR.
func (m *measured) nvExtend(t *testing.T) {
	t.Helper()
	if m.v == v12 {
		return
	}
	m.did["NV_Extend"]++
	if !m.nv {
		m.nv = true
		m.data.ok(t, "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800002 000b 02060044 0000 0020")
	}
	m.data.ok(t, "8002 00000041 00000136 01800002 01800002 00000009 40000009 0000 00 0000 0020"+m.digest(32))
}

// sequence measures through the control channel.
func (m *measured) sequence(t *testing.T) {
	t.Helper()
	for _, err := range []error{m.ctrl.HashStart(), m.ctrl.HashData([]byte("loader")), m.ctrl.HashEnd()} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// save returns the state of the guest.
func (m *measured) save() (saved luggage) {
	for _, kind := range tpm.Blobs {
		blob, flags, err := m.ctrl.State(kind, true)
		if err == nil && len(blob) > 0 {
			saved = append(saved, parcel{kind, flags, blob})
		}
	}
	return saved
}

// load continues with a saved state, which may be older than the NV index.
func (m *measured) load(t *testing.T, saved luggage) {
	t.Helper()
	for _, p := range saved {
		if err := m.ctrl.SetState(p.kind, p.flags, p.blob); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.ctrl.Init(ctrl.InitDeleteVolatile); err != nil {
		t.Fatal(err)
	}
	m.nv = false
	if m.v == v20 {
		rsp, err := m.data.transmit("8001 0000000e 00000169 01800002") // NV_ReadPublic
		m.nv = err == nil && result(rsp) == 0
	}
	m.broken = true
}

// snapshot saves the guest and continues with the snapshot.
func (m *measured) snapshot(t *testing.T) {
	t.Helper()
	saved := m.save()
	if m.IntN(2) == 0 {
		m.extendAny(t)
	}
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	m.load(t, saved)
}

// migrate continues the guest in another process, whose directory has no ledger.
func (m *measured) migrate(t *testing.T) {
	t.Helper()
	saved, source := m.save(), m.resumableTPM
	m.resumableTPM = newRecordedOff(t, m.v, m.key)
	m.data = m.dial(t)
	m.boot = 0
	m.load(t, saved)
	source.end(t)
}
