//go:build goexperiment.runtimesecret

package seal

import "runtime/secret"

// erase runs f. It erases the registers and the stack of f when f returns; the garbage collector
// erases what f has allocated.
func erase(f func()) { secret.Do(f) }
