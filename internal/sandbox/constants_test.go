package sandbox

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestConstants checks that the constants in the rules are the same on each architecture
// with a generated program: libseccomp compiles all programs on one of them.
func TestConstants(t *testing.T) {
	names := []string{"CLONE_VM", "CLONE_FS", "CLONE_FILES", "CLONE_SIGHAND", "CLONE_THREAD", "CLONE_SYSVSEM", "CLONE_SETTLS",
		"CLONE_PARENT_SETTID", "CLONE_CHILD_SETTID", "CLONE_CHILD_CLEARTID", "CLONE_DETACHED", "S_ISUID", "S_ISGID", "S_ISVTX",
		"O_CREAT", "O_ASYNC", "F_DUPFD_CLOEXEC", "F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL", "F_OFD_SETLK", "F_OFD_GETLK",
		"F_SETLK", "F_GETLK", "PROT_EXEC", "PR_GET_SECCOMP", "TCGETS"}
	dir := unixSource(t)
	for _, name := range names {
		values := map[string]string{}
		for _, file := range []string{"zerrors_linux.go", "zerrors_linux_amd64.go", "zerrors_linux_arm64.go", "zerrors_linux_riscv64.go"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if m := regexp.MustCompile(`(?m)^\s+` + name + `\s+= (\S+)$`).FindSubmatch(b); m != nil {
				values[file] = string(m[1])
			}
		}
		if common := values["zerrors_linux.go"]; common != "" && len(values) == 1 {
			continue
		}
		want := values["zerrors_linux_amd64.go"]
		if len(values) != 3 || values["zerrors_linux_arm64.go"] != want || values["zerrors_linux_riscv64.go"] != want {
			t.Errorf("%s is %v, want one value", name, values)
		}
	}
	if makes != 0x400040 {
		t.Errorf("the flags of open with which the mode counts are %#x, want O_CREAT and the bit of O_TMPFILE", makes)
	}
}
