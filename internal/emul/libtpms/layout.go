package libtpms

/*
#include <stddef.h>
#include "loop.h"

enum {
	offsetof_cells_locality = offsetof(struct cells, locality),
	offsetof_cells_last = offsetof(struct cells, last),
	offsetof_fixed_size = offsetof(struct fixed, size),
	offsetof_fixed_reply = offsetof(struct fixed, reply),
	offsetof_entry_last = offsetof(struct entry, last),
	offsetof_entry_plain = offsetof(struct entry, plain),
	offsetof_entry_socket = offsetof(struct entry, socket),
	offsetof_entry_listens = offsetof(struct entry, listens),
	offsetof_entry_fresh = offsetof(struct entry, fresh),
	offsetof_counts_clients = offsetof(struct counts, clients),
};
*/
import "C"

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// The structures and constants that C and Go share are compared here. If the values of a pair
// differ, the program does not compile, because only 0 is a valid index of an array with one
// element.
var (
	one [1]struct{}

	_ = one[unsafe.Sizeof(handover.Record{})-C.sizeof_struct_record]
	_ = one[C.HEAD_SIZE-handover.HeadSize]
	_ = one[C.PHASE_IDLE-handover.PhaseIdle]
	_ = one[C.PHASE_READING-handover.PhaseReading]
	_ = one[C.PHASE_ANSWERING-handover.PhaseAnswering]

	_ = one[C.SLOT_HEADER-handover.SlotHeader]
	_ = one[C.SLOT_LENGTH-handover.SlotLength]
	_ = one[unsafe.Offsetof(handover.Cells{}.Locality)-C.offsetof_cells_locality]
	_ = one[unsafe.Offsetof(handover.Cells{}.LastCode)-C.offsetof_cells_last]

	_ = one[unsafe.Sizeof(unix.PollFd{})-C.sizeof_struct_pollfd]
	_ = one[unsafe.Sizeof(handover.Fixed{})-C.sizeof_struct_fixed]
	_ = one[unsafe.Offsetof(handover.Fixed{}.Size)-C.offsetof_fixed_size]
	_ = one[unsafe.Offsetof(handover.Fixed{}.Reply)-C.offsetof_fixed_reply]
	_ = one[unsafe.Sizeof(handover.Entry{})-C.sizeof_struct_entry]
	_ = one[unsafe.Offsetof(handover.Entry{}.Last)-C.offsetof_entry_last]
	_ = one[unsafe.Offsetof(handover.Entry{}.Plain)-C.offsetof_entry_plain]
	_ = one[unsafe.Offsetof(handover.Entry{}.Socket)-C.offsetof_entry_socket]

	_ = one[unsafe.Offsetof(handover.Entry{}.Listens)-C.offsetof_entry_listens]
	_ = one[unsafe.Offsetof(handover.Entry{}.Fresh)-C.offsetof_entry_fresh]
	_ = one[C.NO_SOCKET-handover.NoSocket]
	_ = one[C.SOCKET-handover.OtherSocket]
	_ = one[C.SOCKET_STREAM-handover.Stream]
	_ = one[C.FRESH-handover.Fresh]
	_ = one[C.FRESH_USED-handover.FreshUsed]
	_ = one[unsafe.Sizeof(handover.Counts{})-C.sizeof_struct_counts]
	_ = one[unsafe.Offsetof(handover.Counts{}.Clients)-C.offsetof_counts_clients]

	_ = one[C.EVENT_READY-handover.EventReady]
	_ = one[C.EVENT_MESSAGE-handover.EventMessage]
	_ = one[C.EVENT_REST-handover.EventRest]
	_ = one[C.EVENT_NO_RESPONSE-handover.EventNoResponse]
	_ = one[C.EVENT_CLOSED-handover.EventClosed]
)

// writeSlot lets C write a state that consists of header and body into the older of two slots. It
// returns false if C has not written it because Go has to do it.
func writeSlot(slots [2][]byte, header, body []byte) bool {
	C.swtpm_use_slots((*C.uchar)(unsafe.SliceData(slots[0])), (*C.uchar)(unsafe.SliceData(slots[1])), C.uint64_t(len(slots[0])))
	C.swtpm_set_slot_header((*C.uchar)(unsafe.SliceData(header)), C.uint32_t(len(header)))
	defer C.swtpm_set_slot_header(nil, 0)
	return C.swtpm_write_slot((*C.uchar)(unsafe.SliceData(body)), C.uint32_t(len(body))) != 0
}
