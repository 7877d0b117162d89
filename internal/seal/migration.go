package seal

import "fmt"

// Keys are the keys of one TPM; each may be nil. File encrypts its state at
// rest, Migration what leaves through the control channel.
type Keys struct {
	File, Migration *Key
}

// SealBlob returns the migration blob for payload. The inner layer is encrypted
// with the file key unless decrypted asks for it in the clear, the outer layer
// with the migration key; a layer without key is plain. encrypted tells whether
// the inner layer is. payload is not kept.
//
//	header, tagMigration { blocks of the inner layer }            or
//	header, tagMigrationEncrypted { same }, tagMAC, tagMigrationIV
//
// There is no checksum block: the transport is a stream, and clients compare.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, SWTPM_NVRAM_GetStateBlob.
func (k Keys) SealBlob(payload []byte, decrypted bool) (blob []byte, encrypted bool, err error) {
	if len(payload) > MaxPayload {
		return nil, false, fmt.Errorf("seal: %w: a state of %d bytes, at most %d are allowed", ErrLength, len(payload), MaxPayload)
	}
	if err := k.usable(); err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	file := k.File
	if decrypted {
		file = nil
	}
	size := fileLayer.size(file, len(payload))
	inner, err := fileLayer.append(make([]byte, 0, size), payload, file)
	if err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	defer Wipe(inner)

	flags := FlagMigration | fileLayer.flags(file) | migrationLayer.flags(k.Migration)
	total := headerSize + migrationLayer.size(k.Migration, size)
	b := appendHeader(make([]byte, 0, total), flags, total)
	if b, err = migrationLayer.append(b, inner, k.Migration); err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	return b, file != nil, nil
}

// OpenBlob returns the payload of a migration blob. encrypted is the sender's
// word that the inner layer is encrypted; the blob's own header may say so too.
// blob is not kept; the caller owns the payload and should Wipe it.
//
// It fails with ErrLength, ErrVersion or ErrHeader if the header is wrong, with
// ErrNoKey if a layer is encrypted and its key is not configured, with
// ErrKeySize, ErrMAC or ErrContent as Open does. A key that is configured but
// not needed is no error: that is how an encrypted TPM is made of a plain one.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, SWTPM_NVRAM_SetStateBlob.
func (k Keys) OpenBlob(blob []byte, encrypted bool) ([]byte, error) {
	payload, err := k.openBlob(blob, encrypted)
	if err == nil && len(payload) > MaxPayload {
		err = fmt.Errorf("%w: a state of %d bytes, at most %d are allowed", ErrLength, len(payload), MaxPayload)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: migration blob: %w", err)
	}
	return payload, nil
}

func (k Keys) openBlob(blob []byte, encrypted bool) ([]byte, error) {
	h, body, err := parseHeader(blob)
	if err != nil {
		return nil, err
	}
	if h.version != 1 && h.version != version {
		return nil, errVersion(h)
	}
	if err := k.usable(); err != nil {
		return nil, err
	}
	inner, err := unwrap(migrationLayer, h, body, k.Migration, h.flags&FlagMigrationEncrypted != 0)
	if err != nil {
		return nil, err
	}
	defer Wipe(inner)
	return unwrap(fileLayer, h, inner, k.File, encrypted || h.flags&FlagEncrypted != 0)
}

// unwrap returns a copy of what is in layer l of body, which is encrypted with
// k or plain. Version 1 has no blocks: a plain layer is no layer at all.
func unwrap(l layer, h header, body []byte, k *Key, encrypted bool) ([]byte, error) {
	if !encrypted {
		plain, ok := body, true
		if h.version != 1 {
			plain, ok = find(body, l.plain)
		}
		if !ok {
			return nil, fmt.Errorf("%w: there is no plain %s block; is it a migration blob?", ErrContent, l.name)
		}
		return append(make([]byte, 0, len(plain)), plain...), nil
	}
	if k == nil {
		return nil, fmt.Errorf("%w: it is encrypted with a %s key", ErrNoKey, l.name)
	}
	if h.version == 1 {
		return k.openV1(body)
	}
	if err := l.fits(k, h.flags); err != nil {
		return nil, err
	}
	return l.open(body, k)
}

// usable fails if a key was closed already.
func (k Keys) usable() error {
	if err := k.File.usable(); err != nil {
		return err
	}
	return k.Migration.usable()
}
