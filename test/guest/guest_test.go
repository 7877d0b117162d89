package guest_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// commands are what the guest sends, as hex.
//
// Source: TPM Main Part 3; TPM 2.0 Library Part 3.
type commands struct {
	random           string // 8 bytes
	extend, pcr      string // PCR 12, which the kernel leaves alone
	define           string // an NV index of 8 bytes
	increase, number string // what is in it, a counter or, in a TPM 1.2, a number
	digest           int    // size of a PCR in bytes
	last             int    // where the number begins in the response
}

func (m model) commands() commands {
	if m.tpm2 {
		return commands{
			random:   "8001 0000000c 0000017b 0008",
			extend:   "8002 00000041 00000182 0000000c 00000009 40000009 0000 00 0000 00000001 000b" + strings.Repeat("22", 32),
			pcr:      "8001 00000014 0000017e 00000001 000b 03 001000",
			define:   "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800001 000b 02060016 0000 0008",
			increase: "8002 0000001f 00000134 01800001 01800001 00000009 40000009 0000 00 0000",
			number:   "8002 00000023 0000014e 01800001 01800001 00000009 40000009 0000 00 0000 0008 0000",
			digest:   32, last: 16,
		}
	}
	return commands{
		random: "00c1 0000000e 00000046 00000008",
		extend: "00c1 00000022 00000014 0000000c" + strings.Repeat("11", 20),
		pcr:    "00c1 0000000e 00000015 0000000c",
		define: "00c1 00000065 000000cc 0018 00001234" +
			"0003 000000 1f" + strings.Repeat("00", 20) + "0003 000000 1f" + strings.Repeat("00", 20) +
			"0017 00000002 00 00 00 00000008" + strings.Repeat("00", 20),
		increase: "00c1 0000001e 000000cd 00001234 00000000 00000008 %016x",
		number:   "00c1 00000016 000000cf 00001234 00000000 00000008",
		digest:   20, last: 14,
	}
}

// tpm sends a command from the guest, which must succeed. If a deadline of the guest's kernel passes,
// it is sent again.
func (v *machine) tpm(t *testing.T, cmd string) []byte {
	t.Helper()
	for range 10 {
		if rsp, late := v.tpmOnce(t, cmd); !late {
			return rsp
		}
	}
	t.Fatalf("%.40s: the guest's kernel does not wait for the response", cmd)
	return nil
}

// tpmOnce is tpm for a command that must not run twice: late reports that a deadline of the guest's
// kernel, which waits for less than a second for some commands, has passed. Then the command may
// have taken effect.
func (v *machine) tpmOnce(t *testing.T, cmd string) (rsp []byte, late bool) {
	t.Helper()
	text, ok := v.answer(t, "tpm "+strings.ReplaceAll(cmd, " ", ""))
	if !ok {
		for _, errno := range []unix.Errno{unix.ETIME, unix.ECANCELED} {
			if strings.Contains(text, errno.Error()) {
				t.Logf("%.40s: %s", cmd, text)
				return nil, true
			}
		}
		t.Fatalf("%.40s: %s", cmd, text)
	}
	rsp, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(rsp) < 10 || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		t.Fatalf("%.40s: response %x", cmd, rsp)
	}
	return rsp, false
}

// guest is the content that the TPM of a machine must have.
type guest struct {
	model
	number uint64
	pcr    string // PCR 12 in hex
}

// moveIn gives the TPM its content.
func moveIn(t *testing.T, v *machine, m model) *guest {
	t.Helper()
	g := &guest{model: m}
	v.tpm(t, m.commands().define)
	g.increase(t, v)
	g.extend(t, v)
	return g
}

func (g *guest) increase(t *testing.T, v *machine) {
	t.Helper()
	g.number++
	cmd := g.commands().increase
	if !g.tpm2 {
		cmd = fmt.Sprintf(cmd, g.number)
	}
	for _, late := v.tpmOnce(t, cmd); late && g.stored(t, v) != g.number; _, late = v.tpmOnce(t, cmd) {
	}
}

func (g *guest) extend(t *testing.T, v *machine) {
	t.Helper()
	before := v.pcr(t, g.model)
	_, late := v.tpmOnce(t, g.commands().extend)
	for g.pcr = v.pcr(t, g.model); late && g.pcr == before; g.pcr = v.pcr(t, g.model) {
		_, late = v.tpmOnce(t, g.commands().extend)
	}
	if g.pcr == before {
		t.Fatalf("PCR 12 is %s, extended and as before", g.pcr)
	}
}

// stored returns the number in NV memory.
func (g *guest) stored(t *testing.T, v *machine) uint64 {
	t.Helper()
	c := g.commands()
	rsp := v.tpm(t, c.number)
	if len(rsp) < c.last+8 {
		t.Fatalf("the number is %x", rsp)
	}
	return binary.BigEndian.Uint64(rsp[c.last:])
}

// pcr reads PCR 12 in the guest.
func (v *machine) pcr(t *testing.T, m model) string {
	t.Helper()
	c := m.commands()
	rsp := v.tpm(t, c.pcr)
	return hex.EncodeToString(rsp[max(0, len(rsp)-c.digest):])
}

// isIn checks that the TPM has the content g.
func (g *guest) isIn(t *testing.T, v *machine) {
	t.Helper()
	if pcr := v.pcr(t, g.model); pcr != g.pcr {
		t.Errorf("PCR 12 is %s, want %s", pcr, g.pcr)
	}
	if n := g.stored(t, v); n != g.number {
		t.Errorf("the number is %d, want %d", n, g.number)
	}
}

// reset presses the reset button and waits until the guest has booted again, with the initial
// values of its PCRs.
func (g *guest) reset(t *testing.T, v *machine) {
	t.Helper()
	v.monitor.do(t, "system_reset", nil)
	v.booted(t)
	g.pcr = strings.Repeat("00", g.commands().digest)
}

// findsTPM checks that the kernel's driver has found the TPM and uses it: for random numbers,
// PCRs, and the firmware's log.
func (v *machine) findsTPM(t *testing.T, m model) {
	t.Helper()
	const sys = "/sys/class/tpm/tpm0/"
	want := "1"
	if m.tpm2 {
		want = "2"
	}
	if got := v.ask(t, "read "+sys+"tpm_version_major"); got != want {
		t.Errorf("the kernel has found a TPM of version %s, want %s", got, want)
	}
	if got := v.ask(t, "read /sys/class/misc/hw_random/rng_current"); got != "tpm-rng-0" {
		t.Errorf("the kernel's source of random numbers is %q, want tpm-rng-0", got)
	}
	var seen []string
	for range 2 {
		seen = append(seen, v.ask(t, "bytes 16 /dev/hwrng"), fmt.Sprintf("%x", v.tpm(t, m.commands().random)))
	}
	if slices.Sort(seen); len(slices.Compact(seen)) != 4 || slices.ContainsFunc(seen, func(s string) bool { return len(s) < 32 }) {
		t.Errorf("random bytes: %q", seen)
	}

	own := v.pcr(t, m)
	var kernels string
	if m.tpm2 {
		kernels = v.ask(t, "read "+sys+"pcr-sha256/12")
	} else { // "PCR-00: 01 02 … PCR-01: …"
		_, rest, _ := strings.Cut(v.ask(t, "read "+sys+"pcrs"), "PCR-12:")
		kernels, _, _ = strings.Cut(rest, "PCR-13")
	}
	if kernels = strings.ToLower(strings.ReplaceAll(kernels, " ", "")); kernels != own {
		t.Errorf("PCR 12 is %s for the kernel, %s for a program", kernels, own)
	}
	if m.firmware == "bios-256k.bin" && v.ask(t, "bytes 16 /sys/kernel/security/tpm0/binary_bios_measurements") == "" {
		t.Error("SeaBIOS has measured nothing")
	}
}

// TestLife checks a machine that boots, works, is reset, returns to a snapshot with a running
// kernel, and ends.
func TestLife(t *testing.T) {
	for _, m := range models {
		t.Run(m.String(), func(t *testing.T) {
			disk := newDisk(t)
			e := startEmulator(t, bin, m.tpm2, harness.TempDir(t))
			v := startMachine(t, m, e, disk)
			v.booted(t)
			v.findsTPM(t, m)
			g := moveIn(t, v, m)
			g.isIn(t, v)

			g.reset(t, v)
			g.isIn(t, v)

			g.extend(t, v)
			v.monitor.human(t, "savevm one")
			then := *g
			g.isIn(t, v)
			g.extend(t, v)
			g.increase(t, v)
			g.isIn(t, v)
			v.monitor.human(t, "loadvm one")
			then.isIn(t, v)
			then.extend(t, v)
			then.increase(t, v)
			then.isIn(t, v)

			then.reset(t, v) // what loadvm brought is what lasts
			then.isIn(t, v)
			v.quit(t, e)
		})
	}
}

// TestReference checks that the kernel's driver finds the same in our TPM as in the reference's.
func TestReference(t *testing.T) {
	m := models[0]
	e := startEmulator(t, need(t, "swtpm", "swtpm"), m.tpm2, harness.TempDir(t))
	v := startMachine(t, m, e, newDisk(t))
	v.booted(t)
	v.findsTPM(t, m)
	g := moveIn(t, v, m)
	g.isIn(t, v)
	v.quit(t, e)
}

// TestMove checks that a machine that was saved to a file continues with other processes: ours on
// the same directory, as with shared storage, and the reference's and ours, each with a directory
// of its own. PCRs and NV memory move with it.
func TestMove(t *testing.T) {
	leaving := []string{"--migration", "release-lock-outgoing"}
	arriving := []string{"--migration", "release-lock-outgoing,incoming"}
	key := []string{"--migration-key", "file=testdata/migration.hex"}
	type host struct {
		reference bool
		args      []string
	}
	for _, r := range []struct {
		name   string
		shared bool
		hosts  []host
	}{
		{"shared", true, []host{{args: leaving}, {args: arriving}, {args: arriving}}},
		{"with the reference", false, []host{{args: key}, {true, key}, {args: key}}},
	} {
		for _, m := range models {
			t.Run(r.name+", "+m.String(), func(t *testing.T) {
				disk, state := newDisk(t), harness.TempDir(t)
				var g *guest
				var saved string
				for i, h := range r.hosts {
					program := bin
					if h.reference {
						program = need(t, "swtpm", "swtpm")
					}
					if !r.shared {
						state = harness.TempDir(t)
					}
					e := startEmulator(t, program, m.tpm2, state, h.args...)
					if i == 0 {
						v := startMachine(t, m, e, disk)
						v.booted(t)
						g = moveIn(t, v, m)
						saved = save(t, v)
						v.quit(t, e)
						continue
					}
					v := startMachine(t, m, e, disk, "-incoming", "exec:cat "+saved)
					harness.Await(t, "the machine", func() bool { return v.monitor.status(t) == "running" })
					g.isIn(t, v)
					g.extend(t, v)
					g.increase(t, v)
					if i == len(r.hosts)-1 {
						g.reset(t, v)
						g.isIn(t, v)
					} else {
						saved = save(t, v)
					}
					v.quit(t, e)
				}
			})
		}
	}
}

// save writes the machine to a file.
func save(t *testing.T, v *machine) (path string) {
	t.Helper()
	path = filepath.Join(harness.TempDir(t), "saved")
	if status := v.monitor.migrate(t, "exec:cat > "+path); status != "completed" {
		t.Fatalf("the migration has %s", status)
	}
	return path
}

// TestMoveFails checks that a live migration to a host with another key fails, that the machine
// continues on its host, and that it then moves to a host with the right key.
func TestMoveFails(t *testing.T) {
	good := []string{"--migration-key", "file=testdata/migration.hex"}
	bad := []string{"--migration-key", "file=testdata/other.hex"}
	for _, m := range models {
		for _, shared := range []bool{false, true} {
			if shared == (m.device == "tpm-crb") {
				continue // one of the two will do
			}
			t.Run(fmt.Sprintf("%s, shared %t", m, shared), func(t *testing.T) {
				disk, state := newDisk(t), harness.TempDir(t)
				src := startEmulator(t, bin, m.tpm2, state, append(good, "--migration", "release-lock-outgoing")...)
				v := startMachine(t, m, src, disk)
				v.booted(t)
				g := moveIn(t, v, m)
				for _, keys := range [][]string{bad, good} {
					at, args := harness.TempDir(t), keys
					if shared {
						at, args = state, append(slices.Clip(keys), "--migration", "release-lock-outgoing,incoming")
					}
					dst := startEmulator(t, bin, m.tpm2, at, args...)
					uri := "unix:" + filepath.Join(harness.TempDir(t), "q")
					w := startMachine(t, m, dst, disk, "-incoming", uri)
					harness.Await(t, "the incoming machine", func() bool { return w.monitor.status(t) == "inmigrate" })
					v.monitor.migrate(t, uri)
					if keys[1] == good[1] {
						harness.Await(t, "the machine", func() bool { return w.monitor.status(t) == "running" })
						v.quit(t, src)
						g.isIn(t, w)
						g.increase(t, w)
						g.reset(t, w)
						g.isIn(t, w)
						w.quit(t, dst)
						return
					}
					w.Wait(t)
					dst.ended(t)
					if said := w.Out.String(); !strings.Contains(said, "tpm-emulator") {
						t.Errorf("QEMU has not failed for the TPM: %s", said)
					}
					if v.monitor.status(t) != "running" { // QEMU does not know; who manages it does
						v.monitor.do(t, "cont", nil)
					}
					g.isIn(t, v)
					g.extend(t, v)
					g.increase(t, v)
				}
			})
		}
	}
}
