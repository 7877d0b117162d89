package nv

import "errors"

// ErrUnsynced means that a new item is in place, and may not survive a power cut.
var ErrUnsynced = errors.New("not synced")
