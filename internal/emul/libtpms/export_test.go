package libtpms

// MayStore and Serialized are for tests.
var (
	MayStore   = mayStore
	Serialized = serialized
)
