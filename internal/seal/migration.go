package seal

import "fmt"

// Keys are the keys of one TPM; each may be nil. File encrypts its state at
// rest, Migration what leaves through the control channel.
type Keys struct {
	File, Migration *Key
}

// SealBlob returns the migration blob for payload, which it does not retain. The inner
// layer is encrypted with the file key unless decrypted is true, and the outer layer
// with the migration key; a layer without a key is plain. encrypted reports whether
// the inner layer is encrypted.
//
//	header, tagMigration { blocks of the inner layer, tagRecord }  or
//	header, tagMigrationEncrypted { same }, tagMAC, tagMigrationIV
//
// There is no checksum block: the transport is a stream, and clients compare.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, SWTPM_NVRAM_GetStateBlob.
func (k Keys) SealBlob(payload []byte, decrypted bool) (blob []byte, encrypted bool, err error) {
	return k.SealBlobWithRecord(payload, nil, decrypted)
}

// SealBlobWithRecord does the same as SealBlob, and adds record to the blob unless it is empty.
func (k Keys) SealBlobWithRecord(payload, record []byte, decrypted bool) (blob []byte, encrypted bool, err error) {
	if err := checkSizes(payload, record); err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	if err := k.usable(); err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	file := k.File
	if decrypted {
		file = nil
	}
	size := fileLayer.size(file, len(payload)) + recordSize(file, record)
	inner, err := fileLayer.append(make([]byte, 0, size), payload, file)
	if err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	inner = appendRecord(inner, 0, record, file)
	defer Wipe(inner)

	flags := flagMigration | fileLayer.flags(file) | migrationLayer.flags(k.Migration)
	total := headerSize + migrationLayer.size(k.Migration, size)
	b := appendHeader(make([]byte, 0, total), flags, total)
	if b, err = migrationLayer.append(b, inner, k.Migration); err != nil {
		return nil, false, fmt.Errorf("seal: %w", err)
	}
	return b, file != nil, nil
}

// OpenBlob returns the payload of a migration blob. encrypted is true if the sender
// says that the inner layer is encrypted; the header of the blob may say so, too.
// OpenBlob does not retain blob; the caller owns the payload and should Wipe it.
//
// It fails with ErrLength, ErrVersion or ErrHeader if the header is wrong, with
// ErrVersion1 if the blob is encrypted and of version 1, with ErrNoKey or ErrKeySize
// if a layer is encrypted and its key is not configured or has another size, with
// ErrContent if a plain blob lacks a block. Every other error in an encrypted layer,
// or inside it, is ErrMAC, with the same text and after the same work. A key that is
// configured but not needed is not an error, because a plain TPM may become an
// encrypted one.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, SWTPM_NVRAM_SetStateBlob.
func (k Keys) OpenBlob(blob []byte, encrypted bool) ([]byte, error) {
	payload, _, err := k.OpenBlobWithRecord(blob, encrypted)
	return payload, err
}

// OpenBlobWithRecord does the same as OpenBlob, and also returns the record of the blob, nil if
// it has none.
func (k Keys) OpenBlobWithRecord(blob []byte, encrypted bool) (payload, record []byte, err error) {
	payload, record, err = k.openBlob(blob, encrypted)
	if err == nil && len(payload) > MaxPayload {
		err = fmt.Errorf("%w: a state of %d bytes, at most %d are allowed", ErrLength, len(payload), MaxPayload)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("seal: migration blob: %w", err)
	}
	return payload, record, nil
}

func (k Keys) openBlob(blob []byte, encrypted bool) (payload, record []byte, err error) {
	h, body, err := parseHeader(blob)
	if err != nil {
		return nil, nil, err
	}
	if h.version != 1 && h.version != version {
		return nil, nil, errVersion(h)
	}
	if err := k.usable(); err != nil {
		return nil, nil, err
	}
	outer, inner := h.flags&FlagMigrationEncrypted != 0, encrypted || h.flags&FlagEncrypted != 0
	if h.version == 1 {
		if outer || inner {
			return nil, nil, ErrVersion1
		}
		return append(make([]byte, 0, len(body)), body...), nil, nil // it has no blocks
	}
	// Check everything that needs no key here, for both layers: a check after the
	// first layer was opened would reveal whether the key was right.
	if err := migrationLayer.ready(k.Migration, h, outer); err != nil {
		return nil, nil, err
	}
	if err := fileLayer.ready(k.File, h, inner); err != nil {
		return nil, nil, err
	}
	content, good, err := migrationLayer.unwrap(body, k.Migration, outer)
	if err != nil {
		return nil, nil, err
	}
	defer Wipe(content)
	payload, fine, err := fileLayer.unwrap(content, k.File, inner)
	if err != nil {
		return nil, nil, err
	}
	var recordKey *Key
	if inner {
		recordKey = k.File
	}
	record, recorded := openRecord(content, recordKey)
	if good&fine&recorded == 1 {
		return payload, record, nil
	}
	Wipe(payload)
	if outer || inner {
		return nil, nil, errSealed()
	}
	return nil, nil, fmt.Errorf("%w: there is no plain state in it; is it a migration blob?", ErrContent)
}

// ready checks that k has the right size if the layer is encrypted.
func (l layer) ready(k *Key, h header, encrypted bool) error {
	switch {
	case !encrypted:
		return nil
	case k == nil:
		return fmt.Errorf("%w: it is encrypted with a %s key", ErrNoKey, l.name)
	}
	return l.fits(k, h.flags)
}

// unwrap returns a copy of the content of the layer, with the results of open. If a plain layer
// lacks its block, unwrap copies body instead, so that it takes as long.
func (l layer) unwrap(body []byte, k *Key, encrypted bool) (plain []byte, good int, err error) {
	if encrypted {
		return l.open(body, k)
	}
	good = 1
	b, ok := find(body, l.plain)
	if !ok {
		b, good = body, 0
	}
	return append(make([]byte, 0, len(b)), b...), good, nil
}

// usable fails if a key was closed already.
func (k Keys) usable() error {
	if err := k.File.usable(); err != nil {
		return err
	}
	return k.Migration.usable()
}
