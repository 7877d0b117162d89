// Package stack gives a goroutine a large stack at once.
//
// Go doubles the stack of a goroutine when it is too small. For each of the sizes 4, 8 and 16 kB
// the runtime prepares 32 kB of stacks, which stay. A stack of 32 kB is allocated alone, and only its
// used pages need memory. Importing the package gives the main goroutine such a stack before
// most packages are initialized.
package stack

// Grow gives the calling goroutine a stack of at least 32 kB.
func Grow()

func init() { Grow() }
