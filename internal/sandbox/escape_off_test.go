//go:build !cgo || record

package sandbox

// confined is empty in a build that does not confine the process.
var confined map[string]func(args []string) error
