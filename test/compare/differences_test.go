package compare_test

import (
	"fmt"
	"slices"
	"sync"
)

// difference is an answer of ours that differs from the reference. An empty
// version or state stands for all, "*" for any reply. Replies are in hex.
type difference struct {
	version, state, name string
	theirs, ours         string
	why                  string
	old                  bool // the reference has changed since 0.7 and answers as we do now
}

const (
	whyLockBit   = "LOCK_STORAGE and its capability, bit 16, came with 0.8"
	whyDrain     = "the rest of a refused request is dropped; the reference takes it for requests"
	whyPayload   = "a payload is checked before libtpms sees it, so the result is ours"
	whyHashExtra = "0.7 waits for ever if there is more than was announced"
	whyType      = "0.7 looks for a file of that name"
	whyEmpty     = "a TPM 2.0 of later libraries aborts at the next INIT"
	whyLoad      = "0.7 tells one error for all"
	whyPieces    = "a command may come in pieces"
	whyLocality  = "there is no locality 9, and libtpms is never told of one"
	whyQuirk     = "the reference forgets its listener when a client goes"
)

// capRsp20 is the response to TPM2_GetCapability for the family, "2.0".
const capRsp20 = "80010000001b0000000001000000060000000100000100322e3000"

var differences = []difference{
	{"1.2", "", "GET_CAPABILITY", "0000000000007fff", "0000000000017fff", whyLockBit, true},
	{"1.2", "", "GET_CAPABILITY with a body", "0000000000007fff", "0000000000017fff", whyLockBit, true},
	{"1.2", "", "GET_CAPABILITY twice in one write", "0000000000007fff", "0000000000017fff", whyLockBit, true},
	{"1.2", "", "GET_CAPABILITY in two pieces", "0000000000007fff", "0000000000017fff", whyLockBit, true},
	{"2.0", "", "GET_CAPABILITY", "000000000000ffff", "000000000001ffff", whyLockBit, true},
	{"2.0", "", "GET_CAPABILITY with a body", "000000000000ffff", "000000000001ffff", whyLockBit, true},
	{"2.0", "", "GET_CAPABILITY twice in one write", "000000000000ffff", "000000000001ffff", whyLockBit, true},
	{"2.0", "", "GET_CAPABILITY in two pieces", "000000000000ffff", "000000000001ffff", whyLockBit, true},
	{"", "", "LOCK_STORAGE 0", "0000000a", "00000000", whyLockBit, true},
	{"", "", "LOCK_STORAGE 300", "0000000a", "00000000", whyLockBit, true},
	{"", "", "LOCK_STORAGE with surplus", "0000000a", "00000000", whyLockBit, true},
	{"", "", "LOCK_STORAGE with half a number", "0000000a", "00000003", whyLockBit, true},
	{"", "", "LOCK_STORAGE without number", "0000000a", "00000003", whyLockBit, true},
	{"", "", "LOCK_STORAGE after the savestate", "0000000a", "00000000", whyLockBit, true},

	{"", "on", "HASH_DATA with too many bytes", "silence", "00000003", whyHashExtra, true},
	{"", "started", "HASH_DATA with too many bytes", "silence", "00000003", whyHashExtra, true},
	{"1.2", "", "HASH_DATA with too many bytes", "0000001a", "00000003", "0.7 looks at the body last", true},
	{"", "", "GET_STATEBLOB type 0", "00000800000000000000000000000000", "00000009000000000000000000000000", whyType, true},
	{"", "", "GET_STATEBLOB type 4", "00000800000000000000000000000000", "00000009000000000000000000000000", whyType, true},
	{"", "started", "SET_DATAFD without a descriptor", "00000003", "0000001f", whyQuirk, false},
	{"", "started", "SET_DATAFD with a body", "00000003", "0000001f", whyQuirk, false},

	{"", "", "HASH_DATA over a buffer", "*", "0000000a", whyDrain, false},
	{"", "", "HASH_DATA over many buffers", "*", "0000000a", whyDrain, false},
	{"1.2", "on", "HASH_DATA over a buffer", "*", "0000001a", whyDrain, false},
	{"1.2", "on", "HASH_DATA over many buffers", "*", "0000001a", whyDrain, false},
	{"", "", "SET_STATEBLOB of a long one with garbage", "*", "0000000a", whyDrain, false},

	{"1.2", "started", "one byte later than the rest", "00c40000000a00000019", "00c4000000120000000000000004" + "49424d00", whyPieces, false},
	{"1.2", "on", "one byte later than the rest", "00c40000000a00000019", "00c40000000a00000026", whyPieces, false},
	{"2.0", "started", "one byte later than the rest", "80010000000a00000142", capRsp20, whyPieces, false},
	{"2.0", "on", "one byte later than the rest", "80010000000a00000142", "80010000000a00000100", whyPieces, false},
	{"2.0", "started", "a prefix with locality 9", "0000001b" + capRsp20 + "00000000silence", "0000000a80010000000a0000010700000000silence", whyLocality, false},
	{"2.0", "on", "a prefix with locality 9", "0000000a80010000000a0000010000000000silence", "0000000a80010000000a0000010700000000silence", whyLocality, false},

	{"1.2", "", "SET_STATEBLOB of garbage in good blocks", "00000043", "00000009", whyPayload, false},
	{"2.0", "", "SET_STATEBLOB of garbage in good blocks", "0000001e", "0000009a", whyPayload, false},
	{"1.2", "damage", "permanent of another version", "00000009", "0000002e", whyLoad, true},
	{"1.2", "damage", "permanent cut short", "00000009", "00000003", whyLoad, true},
	{"1.2", "damage", "permanent with another header size", "00000009", "0000002b", whyLoad, true},
	{"2.0", "migration", "empty permanent: step 1", "00000000", "00000003", whyEmpty, false},
	{"1.2", "migration", "volatile as permanent: step 1", "00000043", "00000009", whyPayload, false},
	{"2.0", "migration", "volatile as permanent: step 1", "0000001e", "0000009a", whyPayload, false},
	{"1.2", "migration", "permanent as volatile: step 2", "00000043", "00000009", whyPayload, false},
	{"2.0", "migration", "permanent as volatile: step 2", "0000001e", "0000009a", whyPayload, false},
}

// seen are the differences that were seen.
var seen sync.Map

// check records a failure, and returns false, if the replies differ and the list of differences does not have that.
func (p *pair) check(state, name, theirs, ours string) bool {
	if theirs == ours {
		return true
	}
	n := p.listed(state, name, theirs, ours)
	if n < 0 {
		p.fail(theirs, ours, "TPM %s, %s: %s: ours = %.200s, reference %.200s%s", p.version, state, name, ours, theirs, p.one[1].ending())
		return false
	}
	seen.Store(n, true)
	return true
}

// listed returns the index of a difference in the list, -1 if it is missing.
func (p *pair) listed(state, name, theirs, ours string) int {
	return slices.IndexFunc(differences, func(d difference) bool {
		return (d.version == "" || d.version == p.version) && (d.state == "" || d.state == state) &&
			d.name == name && (d.theirs == "*" || d.theirs == theirs) && d.ours == ours && (p.old || !d.old)
	})
}

// allSeen reports listed differences that no longer exist. It needs a
// run of all tests with the 0.7 that the list was made with.
func allSeen() bool {
	ok := true
	old := false
	seen.Range(func(n, _ any) bool { old = old || differences[n.(int)].old; return !old })
	for n, d := range differences {
		if d.why == whyPieces {
			continue // on a busy machine the pieces may arrive all at once, at the reference too
		}
		if _, was := seen.Load(n); old && !was {
			fmt.Printf("TPM %s, %s: %s: listed, but both answered alike\n", d.version, d.state, d.name)
			ok = false
		}
	}
	return ok
}
