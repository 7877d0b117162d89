package cuse

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// fact is a constant expression of a C program that includes swtpm/tpm_ioctl.h, and
// its value.
type fact struct {
	expr string
	want uint64
}

// headerFacts returns the facts about the header, taken from the tables and structures of this
// package and of ctrl where possible.
func headerFacts() (all []fact) {
	add := func(want uint64, format string, args ...any) {
		all = append(all, fact{fmt.Sprintf(format, args...), want})
	}
	for _, r := range ctrl.Requests {
		add(uint64(r.Ioctl()), "PTM_%s", r.Name)
		add(uint64(r.Code), "CMD_%s", r.Name)
	}
	for i, name := range []string{"INIT", "SHUTDOWN", "GET_TPMESTABLISHED", "SET_LOCALITY", "HASHING", "CANCEL_TPM_CMD", "STORE_VOLATILE",
		"RESET_TPMESTABLISHED", "GET_STATEBLOB", "SET_STATEBLOB", "STOP", "GET_CONFIG", "SET_DATAFD", "SET_BUFFERSIZE", "GET_INFO",
		"SEND_COMMAND_HEADER", "LOCK_STORAGE"} {
		add(1<<i, "PTM_CAP_%s", name)
	}
	add(uint64(ctrl.Capabilities12), "%#x & ~PTM_CAP_SEND_COMMAND_HEADER", uint32(ctrl.Capabilities20))
	for i, name := range []string{"TPMSPECIFICATION", "TPMATTRIBUTES", "TPMFEATURES", "RUNTIME_ALGORITHMS", "RUNTIME_COMMANDS",
		"ACTIVE_PROFILE", "AVAILABLE_PROFILES", "RUNTIME_ATTRIBUTES"} {
		add(1<<i, "SWTPM_INFO_%s", name)
	}
	add(uint64(ctrl.InitDeleteVolatile), "PTM_INIT_FLAG_DELETE_VOLATILE")
	add(uint64(tpm.Permanent), "PTM_BLOB_TYPE_PERMANENT")
	add(uint64(tpm.Volatile), "PTM_BLOB_TYPE_VOLATILE")
	add(uint64(tpm.Savestate), "PTM_BLOB_TYPE_SAVESTATE")
	add(uint64(tpm.SnapshotBlob), "PTM_BLOB_TYPE_SNAPSHOT")
	add(uint64(ctrl.Decrypted), "PTM_STATE_FLAG_DECRYPTED")
	add(uint64(ctrl.Encrypted), "PTM_STATE_FLAG_ENCRYPTED")
	add(uint64(ctrl.HasFileKey), "PTM_CONFIG_FLAG_FILE_KEY")
	add(uint64(ctrl.HasMigrationKey), "PTM_CONFIG_FLAG_MIGRATION_KEY")
	add(ctrl.MaxPiece, "PTM_STATE_BLOB_SIZE")
	add(ctrl.MaxInfo, "PTM_GETINFO_SIZE")
	return append(all, layoutFacts()...)
}

// layoutFacts returns sizes and offsets.
func layoutFacts() (all []fact) {
	add := func(want int, expr string) { all = append(all, fact{expr, uint64(want)}) }
	add(4, "sizeof(ptm_res)")
	add(8, "sizeof(ptm_cap)")
	for name, size := range map[string]int{
		"ptm_cap_n":         binary.Size(ctrl.CapabilityRep{}),
		"ptm_est":           binary.Size(ctrl.EstablishedRep{}),
		"ptm_loc":           4,
		"ptm_reset_est":     4,
		"ptm_init":          binary.Size(ctrl.InitReq{}),
		"ptm_hdata":         4 + ctrl.MaxHash,
		"ptm_getstate":      binary.Size(ctrl.GetStateRep{}) + ctrl.MaxPiece,
		"ptm_setstate":      binary.Size(ctrl.SetStateReq{}) + ctrl.MaxPiece,
		"ptm_getconfig":     binary.Size(ctrl.ConfigRep{}),
		"ptm_setbuffersize": binary.Size(ctrl.BufferSizeRep{}),
		"ptm_getinfo":       (binary.Size(ctrl.InfoRep{}) + ctrl.MaxInfo + 7) &^ 7, // as its flags have 8 bytes
		"ptm_lockstorage":   binary.Size(ctrl.LockStorageReq{}),
	} {
		add(size, "sizeof("+name+")")
		add(size, "sizeof(struct "+name+")")
		if name != "ptm_cap_n" && name != "ptm_est" && name != "ptm_getconfig" { // these have no parameter
			add(0, "offsetof("+name+", u.req)")
		}
		add(0, "offsetof("+name+", u.resp.tpm_result)")
	}
	add(4, "offsetof(ptm_cap_n, u.resp.caps)")
	add(4, "offsetof(ptm_est, u.resp.bit)")
	add(1, "sizeof(((ptm_est *)0)->u.resp.bit)")
	add(binary.Size(ctrl.LocalityReq{}), "sizeof(((ptm_loc *)0)->u.req.loc)")
	add(binary.Size(ctrl.LocalityReq{}), "sizeof(((ptm_reset_est *)0)->u.req.loc)")
	add(0, "offsetof(ptm_init, u.req.init_flags)")
	add(4, "offsetof(ptm_hdata, u.req.data)")
	add(0, "offsetof(ptm_getstate, u.req.state_flags)")
	add(4, "offsetof(ptm_getstate, u.req.type)")
	add(8, "offsetof(ptm_getstate, u.req.offset)")
	add(4, "offsetof(ptm_getstate, u.resp.state_flags)")
	add(8, "offsetof(ptm_getstate, u.resp.totlength)")
	add(12, "offsetof(ptm_getstate, u.resp.length)")
	add(binary.Size(ctrl.GetStateRep{}), "offsetof(ptm_getstate, u.resp.data)")
	add(4, "offsetof(ptm_setstate, u.req.type)")
	add(8, "offsetof(ptm_setstate, u.req.length)")
	add(binary.Size(ctrl.SetStateReq{}), "offsetof(ptm_setstate, u.req.data)")
	add(4, "offsetof(ptm_getconfig, u.resp.flags)")
	add(0, "offsetof(ptm_setbuffersize, u.req.buffersize)")
	add(4, "offsetof(ptm_setbuffersize, u.resp.buffersize)")
	add(8, "offsetof(ptm_setbuffersize, u.resp.minsize)")
	add(12, "offsetof(ptm_setbuffersize, u.resp.maxsize)")
	add(0, "offsetof(ptm_getinfo, u.req.flags)")
	add(8, "offsetof(ptm_getinfo, u.req.offset)")
	add(12, "offsetof(ptm_getinfo, u.req.pad)")
	add(4, "offsetof(ptm_getinfo, u.resp.totlength)")
	add(8, "offsetof(ptm_getinfo, u.resp.length)")
	add(binary.Size(ctrl.InfoRep{}), "offsetof(ptm_getinfo, u.resp.buffer)")
	add(0, "offsetof(ptm_lockstorage, u.req.retries)")
	return all
}

// TestHeader checks that C programs which include swtpm/tpm_ioctl.h see the same
// numbers, sizes and offsets as this package and ctrl, in several dialects of C.
func TestHeader(t *testing.T) {
	include, err := filepath.Abs("../../../include")
	if err != nil {
		t.Fatal(err)
	}
	facts := headerFacts()
	for _, std := range []string{"c99", "c11", "gnu17"} {
		checkFacts(t, facts, include, "cc", "-std="+std, "-Wpedantic")
	}
	if _, err := exec.LookPath("c++"); err == nil {
		checkFacts(t, facts, include, "c++", "-xc++")
	}
	text, err := os.ReadFile(filepath.Join(include, "swtpm/tpm_ioctl.h"))
	if err != nil {
		t.Fatal(err)
	}
	stated := fmt.Sprint(facts)
	for _, name := range regexp.MustCompile(`\b(PTM|CMD|SWTPM)_[A-Z_0-9]+\b|\bptm_[a-z_]+\b`).FindAllString(string(text), -1) {
		if !regexp.MustCompile(`\b`+name+`\b`).MatchString(stated) && !strings.HasSuffix(name, "_") {
			t.Errorf("%s is in the header and in no fact", name)
		}
	}
}

// TestHeaderOfReference checks the facts with the header of swtpm that is installed,
// if any: the facts whose names it has. An older one has fewer names.
func TestHeaderOfReference(t *testing.T) {
	text, err := os.ReadFile("/usr/include/swtpm/tpm_ioctl.h")
	if err != nil {
		t.Skipf("%v: install swtpm-dev", err)
	}
	var facts []fact
	for _, f := range headerFacts() {
		known := true
		for _, name := range regexp.MustCompile(`\b[A-Za-z_]\w*`).FindAllString(f.expr, -1) {
			known = known && (name == "sizeof" || name == "offsetof" || regexp.MustCompile(`\b`+name+`\b`).Match(text))
		}
		if known {
			facts = append(facts, f)
		}
	}
	if len(facts) < 100 {
		t.Errorf("%d facts, want 100 at least", len(facts))
	}
	checkFacts(t, facts, "/usr/include", "cc")
}

// checkFacts compiles and runs a program that prints the facts.
func checkFacts(t *testing.T, facts []fact, include, compiler string, flags ...string) {
	t.Helper()
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skipf("%v: install gcc", err)
	}
	source, program := filepath.Join(t.TempDir(), "facts.c"), filepath.Join(t.TempDir(), "facts")
	text := "#include <swtpm/tpm_ioctl.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{\n"
	for _, f := range facts {
		text += fmt.Sprintf("\tprintf(\"%%llu\\n\", (unsigned long long)(%s));\n", f.expr)
	}
	if err := os.WriteFile(source, []byte(text+"\treturn 0;\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{}, flags...), "-Wall", "-Wextra", "-Werror", "-I", include, "-o", program, source)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v\n%s", compiler, args, err, out)
		return
	}
	out, err := exec.Command(program).Output()
	got := strings.Fields(string(out))
	if err != nil || len(got) != len(facts) {
		t.Fatalf("%d values, %v; want %d", len(got), err, len(facts))
	}
	for i, f := range facts {
		if want := fmt.Sprint(f.want); got[i] != want {
			t.Errorf("%s %q: %s = %s, want %s", compiler, flags, f.expr, got[i], want)
		}
	}
}
