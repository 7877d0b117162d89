package ledger

import (
	"strconv"
	"strings"
)

// nameMark is the part of a file's name between its prefix and the number of the boot.
const nameMark = ".boot-"

// Name returns the name of the file of a boot. The prefix is "tpm-00" or "tpm2-00" in a directory
// of state, and the name of the image next to an image.
func Name(prefix string, boot uint64) string {
	digits := strconv.FormatUint(boot, 10)
	return prefix + nameMark + "0000"[min(len(digits), 4):] + digits
}

// ParseName returns the number of the boot from a name with the prefix. ok is false for the name of
// another file.
func ParseName(prefix, name string) (boot uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, prefix+nameMark)
	if !ok {
		return 0, false
	}
	boot, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || boot == 0 || Name(prefix, boot) != name {
		return 0, false
	}
	return boot, true
}
