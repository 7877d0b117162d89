package emul

import "io/fs"

// MemoryHost is a Host whose state is in memory, for a check of a library or of a state. The
// zero value has no state.
type MemoryHost struct{ items map[string][]byte }

// LoadState implements Host.
func (h *MemoryHost) LoadState(name string) ([]byte, error) {
	p, ok := h.items[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return p, nil
}

// StoreState implements Host. It copies payload and overwrites an old one with zeros.
func (h *MemoryHost) StoreState(name string, payload []byte) error {
	if h.items == nil {
		h.items = map[string][]byte{}
	}
	clear(h.items[name])
	h.items[name] = append([]byte(nil), payload...)
	return nil
}

// DeleteState implements Host. It overwrites the payload with zeros.
func (h *MemoryHost) DeleteState(name string) error {
	p, ok := h.items[name]
	if !ok {
		return fs.ErrNotExist
	}
	clear(p)
	delete(h.items, name)
	return nil
}

// Clear removes all items and overwrites them with zeros.
func (h *MemoryHost) Clear() {
	for _, p := range h.items {
		clear(p)
	}
	clear(h.items)
}

// Warnf implements Host. It drops warnings about the configuration of OpenSSL, which do not
// matter to a state in memory.
func (h *MemoryHost) Warnf(string, ...any) {}
