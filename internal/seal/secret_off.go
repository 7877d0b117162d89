//go:build !goexperiment.runtimesecret

package seal

// erase runs f. In a program built with GOEXPERIMENT=runtimesecret it also
// erases the remains of f in registers, stack and heap.
func erase(f func()) { f() }
