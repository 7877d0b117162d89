// Package data serves the data channel: TPM commands in, responses out. It frames
// messages, and no client can delay another. The TPM interface executes the commands.
package data

import "github.com/swtpm-go/swtpm/internal/tpm"

// missing returns how many more bytes the message that begins with b needs, as far as b
// shows. It returns 0 if b is complete, or can never become a valid command and is answered
// at once.
func missing(b []byte, v tpm.Version, largest int) int {
	if len(b) < tpm.HeaderSize {
		return tpm.HeaderSize - len(b)
	}
	start := 0
	if tpm.Prefixed(v, b) {
		start = tpm.PrefixSize
	}
	h, ok := tpm.ParseHeader(b[start:])
	switch {
	case !ok:
		return start + tpm.HeaderSize - len(b)
	case int64(h.Size) > int64(largest):
		return 0
	}
	return max(0, start+int(h.Size)-len(b))
}
