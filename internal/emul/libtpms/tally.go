package libtpms

/*
#include "engine.h"
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"time"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// NoCode is the code of all commands that the TPM lacks or cannot have.
const NoCode tpm.Code = C.TALLY_NO_CODE

// Tally has the numbers of commands since Count.
type Tally struct {
	Commands []Tallied
	Other    uint64   // commands whose code and result found no room
	Buckets  []uint64 // commands that took longer than the previous bound and at most this one; the last has the rest
	Took     time.Duration
}

// Tallied is the number of commands with one code and result.
type Tallied struct {
	Code   tpm.Code   // NoCode if the TPM lacks the command
	Result tpm.Result // without the number of a parameter, handle or session
	Count  uint64
}

// Count begins to count commands, and their durations by ascending bounds. It is called once,
// before the first command. A command neither allocates for it nor waits for Counted.
func Count(v tpm.Version, bounds []time.Duration) error {
	ns := make([]C.uint64_t, len(bounds))
	for i, b := range bounds {
		ns[i] = C.uint64_t(b)
	}
	theEngine.Lock()
	defer theEngine.Unlock()
	if C.swtpm_tally(unsafe.SliceData(ns), C.uint32_t(len(ns)), cbool(v == tpm.V20)) != 0 {
		return errors.New("libtpms: cannot count commands: out of memory, or counting has already begun")
	}
	counted = len(bounds)
	return nil
}

// ShowCommands shows the number of commands to other processes that may look at this one: it
// is the offset of a memory file called name, in /proc/PID/fdinfo. If the kernel refuses such
// a file, nothing is shown. It is called once, before the first command.
func ShowCommands(name string) {
	s := C.CString(name)
	defer C.free(unsafe.Pointer(s))
	theEngine.Lock()
	defer theEngine.Unlock()
	C.swtpm_show_commands(s)
}

// counted is the number of bounds; written before the first command.
var counted int

// Counted returns the counts so far. It does not wait for the running command.
func Counted() Tally {
	t := Tally{
		Other:   uint64(C.swtpm_tally_other()),
		Took:    time.Duration(C.swtpm_tally_ns()),
		Buckets: make([]uint64, counted+1),
	}
	for i := range t.Buckets {
		t.Buckets[i] = uint64(C.swtpm_tally_bucket(C.uint32_t(i)))
	}
	var at, code, result C.uint32_t
	var n C.uint64_t
	for C.swtpm_tally_pair(&at, &code, &result, &n) != 0 {
		t.Commands = append(t.Commands, Tallied{tpm.Code(code), tpm.Result(result), uint64(n)})
	}
	return t
}
