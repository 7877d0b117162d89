package dir

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// List returns the files of this TPM sorted by name; see nv.ListBackend. It leaves out
// the files of the other TPM version.
func (d *Dir) List() ([]nv.Entry, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var all []nv.Entry
	for _, name := range names {
		role, ok := d.role(name)
		if !ok {
			continue
		}
		st, err := d.files.Stat(name)
		if err != nil {
			return nil, err
		}
		all = append(all, nv.Entry{Name: name, Role: role, Size: st.Size, Changed: time.Unix(st.Mtim.Unix())})
	}
	return all, nil
}

// names returns the names in the directory, sorted.
func (d *Dir) names() ([]string, error) {
	names, err := d.files.Names()
	if err != nil {
		return nil, fmt.Errorf("list state directory: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// role returns the role of the file name; ok is false for a file of another program.
func (d *Dir) role(name string) (nv.Role, bool) {
	if item, ok := strings.CutPrefix(name, d.o.Prefix); ok {
		switch item {
		case nv.Permanent, nv.Volatile, nv.Savestate:
			return nv.RoleItem, true
		case nv.Backup:
			return nv.RoleBackup, true
		case nv.Permanent + ".tmp":
			return nv.RoleTemporary, true
		}
		return "", false
	}
	switch {
	case name == d.journalName():
		return nv.RoleUnfinished, true
	case strings.HasPrefix(name, tempName(d.o.Prefix)), strings.HasPrefix(name, stagedName(d.o.Prefix)):
		return nv.RoleTemporary, true
	}
	return "", false
}
