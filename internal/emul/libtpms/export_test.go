package libtpms

// MayStore, Serialized and WriteSlot are for tests.
var (
	MayStore   = mayStore
	Serialized = serialized
	WriteSlot  = writeSlot
)
