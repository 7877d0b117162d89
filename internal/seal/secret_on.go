//go:build goexperiment.runtimesecret

package seal

import "runtime/secret"

// erase runs f; its registers and stack are erased when it is done, and what it
// allocated when the garbage collector gets there.
func erase(f func()) { secret.Do(f) }
