package mark

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// A place file says which TPM was last seen at a location:
//
//	off len field
//	  0   8 magic     "swtpmPLC"
//	  8  16 name      of the mark of the TPM, as bytes; zero if that TPM was seen elsewhere since
//	 24     location  the URI, with an absolute path
//
// No key authenticates it, so it proves nothing alone: see Exchanged.
const (
	placeMagic = "swtpmPLC"
	placeHead  = 24
	placeMost  = placeHead + unix.PathMax
)

// occupant is the content of a place file.
type occupant struct {
	name     [16]byte
	location string
}

// placeName returns the name of the file of a place.
func placeName(p generation.Place) string { return "at-" + hex.EncodeToString(p[:16]) }

// occupant reads the file of a place. Its error is fs.ErrNotExist if the place has none, or a
// damaged one.
func (d *Dir) occupant(p generation.Place) (o occupant, err error) {
	fd, err := d.openName(placeName(p), unix.O_RDONLY)
	if err != nil {
		return o, err
	}
	defer unix.Close(fd)
	b := make([]byte, placeMost)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		return o, fmt.Errorf("read a place in %q: %w", d.path, err)
	}
	if b = b[:n]; n < placeHead || !bytes.HasPrefix(b, []byte(placeMagic)) || generation.PlaceOf(string(b[placeHead:])) != p {
		return o, fmt.Errorf("damaged place of %d bytes: %w", n, fs.ErrNotExist)
	}
	copy(o.name[:], b[len(placeMagic):])
	o.location = string(b[placeHead:])
	return o, nil
}

// occupy writes the file of a place.
func (d *Dir) occupy(o occupant) error {
	fd, err := d.openName(placeName(generation.PlaceOf(o.location)), unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := append([]byte(placeMagic), o.name[:]...)
	b = append(b, o.location...)
	n, err := unix.Write(fd, b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write a place in %q: %w", d.path, err)
	}
	return nil
}

// Move writes the mark of a TPM that is at location now, and at m.Place before.
func (d *Dir) Move(m generation.Mark, location string) error {
	from := m.Place
	m.Place = generation.PlaceOf(location)
	err := d.occupy(occupant{nameOf(m.Identity), location})
	if err = errors.Join(err, d.Write(m)); err != nil {
		return err
	}
	if o, err := d.occupant(from); err == nil && o.name == nameOf(m.Identity) {
		return d.occupy(occupant{location: o.location})
	}
	return nil
}

// Exchanged returns an error that wraps generation.ErrExchanged if the TPM of m was last seen at
// another place than location, and another TPM was last seen at location. The TPM's identity
// authenticates m, so a forged place file alone causes no error.
func (d *Dir) Exchanged(m generation.Mark, location string) error {
	here := generation.PlaceOf(location)
	if m.Place == (generation.Place{}) || m.Place == here {
		return nil
	}
	o, err := d.occupant(here)
	if err != nil || o.name == nameOf(m.Identity) || o.name == [16]byte{} {
		return nil // a place that is unknown here
	}
	last := "another place"
	if was, err := d.occupant(m.Place); err == nil {
		last = fmt.Sprintf("%q", was.location)
	}
	return fmt.Errorf("%w: TPM %s was last seen at %s, and another one here", generation.ErrExchanged, m.Identity, last)
}
