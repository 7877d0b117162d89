package libtpms_test

import (
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestTally checks that commands are counted by code and result on both paths, Execute and Serve,
// that values of which a guest could make many are counted together, and that nothing is allocated
// for it. A process has one tally, so this is one test.
func TestTally(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	getRandom := harness.Unhex("8001 0000000c 0000017b 0008")
	allocates := func() float64 { return testing.AllocsPerRun(50, func() { run(t, x, getRandom) }) }
	before := allocates()
	if got := libtpms.Counted(); len(got.Commands) != 0 || len(got.Buckets) != 1 || got.Took != 0 {
		t.Errorf("before Count: %+v", got)
	}
	bounds := []time.Duration{time.Nanosecond, time.Hour}
	if err := libtpms.Count(tpm.V20, bounds); err != nil {
		t.Fatal(err)
	}
	if err := libtpms.Count(tpm.V20, bounds); err == nil {
		t.Error("Count works twice")
	}

	run(t, x, getRandom)
	s := newServing(t)
	s.start(x)
	s.send(t, getRandom)
	s.receive(t)
	// TPM2_GetRandom with a byte too many and TPM2_ReadPublic of handles that cannot
	// be: results with numbers in them.
	run(t, x, harness.Unhex("8001 0000000d 0000017b 000800"))
	run(t, x, harness.Unhex("8001 0000000e 00000173 ff000000"))
	for i := range byte(200) { // no commands
		run(t, x, append(harness.Unhex("8001 0000000a 0000f0"), i))
	}
	for i := range byte(200) { // no commands, with a tag that does not exist, and with a size that is wrong
		run(t, x, append(harness.Unhex("00c1 0000000a 7fff01"), i))
		run(t, x, append(harness.Unhex("8001 0000000a 7fff02"), i, 0))
	}
	_ = s.client.Close()
	s.returns(t)

	got := libtpms.Counted()
	want := map[libtpms.Tallied]bool{
		{Code: 0x17b, Result: 0, Count: 2}:                true,
		{Code: 0x17b, Result: 0x095, Count: 1}:            true, // TPM_RC_SIZE
		{Code: 0x173, Result: 0x084, Count: 1}:            true, // TPM_RC_VALUE; the TPM says 0x184, handle 1
		{Code: libtpms.NoCode, Result: 0x143, Count: 200}: true, // TPM_RC_COMMAND_CODE
		{Code: libtpms.NoCode, Result: 0x084, Count: 200}: true, // TPM_RC_VALUE of the tag
		{Code: libtpms.NoCode, Result: 0x142, Count: 200}: true, // TPM_RC_COMMAND_SIZE
	}
	for _, c := range got.Commands {
		if !want[c] {
			t.Errorf("counted %+v", c)
		}
		delete(want, c)
	}
	for c := range want {
		t.Errorf("not counted: %+v", c)
	}
	if got.Other != 0 || len(got.Buckets) != 3 || got.Buckets[0] != 0 || got.Buckets[1] != 604 || got.Buckets[2] != 0 || got.Took <= 0 {
		t.Errorf("durations: %+v", got)
	}
	if after := allocates(); after != before {
		t.Errorf("a command allocates %v times, %v without being counted", after, before)
	}
}
