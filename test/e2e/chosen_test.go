package e2e_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/record"
)

// recorded are the tests whose emulators and verbs make every system call that the policy
// allows: all options, each way to serve, each verb, each kind of log, each clock, a full disk,
// and a service that another process resumes. The recorder fails if a call is missing.
// make record RECORD=. runs all tests.
var recorded = []string{
	"TestScripts", "TestLogSinks", "TestClocks", "TestMetrics", "TestProxmox", "TestCharacterDescriptor", "TestClientCalls",
	"TestVerbsAreConfined", "TestVerbsOnRefusedState", "TestStoreVolatileUnsynced", "TestFullDiskService", "TestShutdownFullDisk",
	"TestNotifyFromChroot", "TestReload", "TestResume", "TestRecordingMatches", "TestLedgerSecrets", "TestMigrationOfSavestate",
	"TestPassedDataListener", "TestPassedControl", "TestRunningCopy", "TestTerminateDuringErrors",
}

// raced is the variable that has -race, the flag of the build with the race detector.
const raced = "SWTPM_TEST_BUILDFLAGS"

// notRaced are the tests that the build with the race detector leaves out, by the reason. In
// them the threads of a program share no data that they do not also share in the tests that remain.
var notRaced = map[string][]string{
	"a verb or a tool has one thread": {
		"TestBackupScriptAborts", "TestCertBesideReference", "TestCertEd448", "TestCertInterrupted", "TestCertNames", "TestCertText",
		"TestCertTPM", "TestCertToken", "TestCloneEncrypted", "TestCloneKinds", "TestCloneOwner", "TestCloneRefused", "TestClones",
		"TestCompletionBash", "TestCompletionFish", "TestCompletionZsh", "TestDoctorAgrees", "TestDoctorBlind", "TestHeaderClient",
		"TestHelpAgrees", "TestInspectEK12", "TestInspectWithoutEK", "TestLocalCAAtOnce", "TestLocalCABesideReference",
		"TestLocalCAHandover", "TestLocalCAHostile", "TestLocalCAToken", "TestLocalCAUser", "TestNoControlCharacters", "TestNoFilter",
		"TestPrintInfoIsConfined", "TestResetLockout", "TestRevocation", "TestSetupFails", "TestSetupHops12", "TestSetupHostileProgram",
		"TestSetupInterrupted", "TestSetupInterruptedLate", "TestSetupInterruptedPrograms", "TestSetupKeys", "TestSetupKilled",
		"TestSetupKilledFile", "TestSetupLeftover", "TestSetupLikeReference", "TestSetupOrdinaryUser", "TestSetupOvertaken",
		"TestSetupStaging", "TestSetupVerified", "TestStateAsRoot", "TestStateLinear", "TestStateOperands", "TestStateRekey",
		"TestStateRekeyKilled", "TestStateTooNew", "TestStateTransfer", "TestVerbsAreConfined", "TestVerbsOnRefusedState",
	},
	"one client, and what is stored is compared; TestScripts, TestStalls and TestResumeUnderLoad have several": {
		"TestAttestation", "TestBiosCalls", "TestBiosOfBoth", "TestBlobsAreNoOracle", "TestCopies", "TestDamageIsRefused",
		"TestDamageOfFile", "TestDamageOfReferenceStateDoesNotCrash", "TestFAPI", "TestFileHops", "TestHostileStateFiles",
		"TestIoctlOfBoth", "TestKillLosesNothingAcknowledged", "TestPowerCut", "TestPowerCutWithFile", "TestStateBlobHops",
		"TestStateHops", "TestStoreFaults", "TestUnseal12",
	},
	"the same requests in another order; TestMigrationOvertaken, TestMigrationIncomingWaits, TestSnapshot and TestRunningCopyMigration remain": {
		"TestGuardAfterMigration", "TestMigration", "TestMigrationThatFails",
	},
	"the same request with other keys; TestLiveSnapshot and TestSnapshotPause remain": {"TestSnapshotForms"},
	"it counts what the race detector changes":                                        {"TestEarlyCapabilities", "TestLedgerSyncs", "TestSetupCalls", "TestStartCalls", "TestStoreCalls"},
}

// runs reports whether a row of a matrix runs with version v. The code that encrypts, stores and
// moves a state does not look into it, so that each row runs with a TPM 2.0, and the chosen rows
// with a TPM 1.2, whose start takes ten times the processor time. make full runs all rows.
func (v version) runs(chosen bool) bool { return v == v20 || chosen || os.Getenv(fullVar) != "" }

// choose limits a run for the recorder or with the race detector to the tests above, unless
// the command line names tests.
func choose() {
	flag.Parse()
	if flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.skip").Value.String() != "" {
		return
	}
	pattern := func(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }
	switch {
	case os.Getenv(record.Var) != "":
		_ = flag.Set("test.run", pattern(recorded))
	case os.Getenv(raced) == "-race":
		var names []string
		for _, tests := range notRaced {
			names = append(names, tests...)
		}
		_ = flag.Set("test.skip", pattern(names))
	}
}

// TestChosen checks that the lists name tests that exist.
func TestChosen(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		source.WriteString(harness.Read(t, f))
	}
	names := slices.Clone(recorded)
	for _, tests := range notRaced {
		names = append(names, tests...)
	}
	for _, name := range names {
		if !regexp.MustCompile(`(?m)^func ` + name + `\(t `).MatchString(source.String()) {
			t.Errorf("no test is called %s", name)
		}
	}
}
