//go:build !amd64 && !arm64 && !riscv64

package sandbox

import "golang.org/x/sys/unix"

// There is no filter for this architecture: Enter fails unless the policy has none.
var generated, generatedSilent []unix.SockFilter
