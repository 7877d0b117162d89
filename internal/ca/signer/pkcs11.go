//go:build cgo

package signer

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// Numbers that the Go module pkcs11 does not define.
//
// Source: PKCS #11 Specification Version 3.1, A.
const (
	ckkECEdwards = 0x40
	ckmEDDSA     = 0x1057
)

// token is a session with a token after login.
type token struct {
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
	open    bool // session is open
	begun   bool // this token initialized the module
	pin     string
}

// openToken returns the key of the URI u of s.
func openToken(u *pkcs11URI, s Source) (*Key, error) {
	pin, err := u.readPIN(s.Password, s.PIN)
	if err != nil {
		return nil, err
	}
	t := &token{pin: pin}
	module, err := t.load(u)
	if err != nil {
		return nil, err
	}
	key, err := t.find(u)
	if err != nil {
		t.close()
		return nil, fmt.Errorf("PKCS#11 module %s: %w", module, err)
	}
	return &Key{Signer: key, close: t.close}, nil
}

// load loads the first existing module that u may mean. Without a name in u that is the
// module of p11-kit, which loads all configured modules.
func (t *token) load(u *pkcs11URI) (name string, err error) {
	names := u.modules()
	for _, name := range names {
		if t.ctx = pkcs11.New(name); t.ctx == nil {
			continue
		}
		err := t.ctx.Initialize()
		if err != nil && !isCode(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			t.ctx.Destroy()
			return "", fmt.Errorf("PKCS#11 module %s: %w", name, err)
		}
		t.begun = err == nil
		return name, nil
	}
	return "", fmt.Errorf("no PKCS#11 module can be loaded, looked for %s", strings.Join(names, ", "))
}

func isCode(err error, code uint) bool {
	c, ok := errors.AsType[pkcs11.Error](err)
	return ok && uint(c) == code
}

// close ends the session and unloads the module.
func (t *token) close() error {
	var err error
	if t.open {
		t.ctx.Logout(t.session) // there may have been no login
		err = t.ctx.CloseSession(t.session)
	}
	if t.begun {
		err = errors.Join(err, t.ctx.Finalize())
	}
	t.ctx.Destroy()
	return err
}

// find logs into the token of u and returns its key.
func (t *token) find(u *pkcs11URI) (*tokenKey, error) {
	slot, err := t.slot(u)
	if err != nil {
		return nil, err
	}
	if t.session, err = t.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
		return nil, err
	}
	t.open = true
	if t.pin != "" {
		switch err := t.ctx.Login(t.session, pkcs11.CKU_USER, t.pin); {
		case isCode(err, pkcs11.CKR_PIN_INCORRECT):
			return nil, errors.New("the PIN is wrong")
		case err != nil && !isCode(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
			return nil, fmt.Errorf("login: %w", err)
		}
	}
	handle, err := t.object(pkcs11.CKO_PRIVATE_KEY, u.object, u.id)
	switch {
	case err == errNoObject && t.pin == "":
		return nil, errors.New("there is no such private key, or it is visible only with a PIN; give one with SWTPM_PKCS11_PIN or pin-value=")
	case err == errNoObject:
		return nil, errors.New("there is no such private key")
	case err != nil:
		return nil, err
	}
	return t.key(handle)
}

// slot returns the slot with the token of u.
func (t *token) slot(u *pkcs11URI) (uint, error) {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	var found []uint
	var labels []string
	for _, slot := range slots {
		info, err := t.ctx.GetTokenInfo(slot)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		labels = append(labels, fmt.Sprintf("%q", info.Label))
		if (u.slot == nil || *u.slot == slot) && matches(u.token, info.Label) && matches(u.manufacturer, info.ManufacturerID) &&
			matches(u.serial, info.SerialNumber) && matches(u.model, info.Model) {
			found = append(found, slot)
		}
	}
	switch {
	case len(labels) == 0:
		return 0, errors.New("no token found")
	case len(found) == 0:
		return 0, fmt.Errorf("the URI's token was not found among the tokens %s", strings.Join(labels, ", "))
	case len(found) > 1:
		return 0, fmt.Errorf("the URI matches %d of the tokens %s; add token= or serial= to select one", len(found), strings.Join(labels, ", "))
	}
	return found[0], nil
}

// matches reports whether the attribute have of a token, which is padded with blanks, equals the
// attribute want of a URI.
func matches(want, have string) bool { return want == "" || want == strings.TrimRight(have, " \x00") }

// errNoObject means that a token has no such object.
var errNoObject = errors.New("no such object in the token")

// object returns the object of a class with this label and identifier; "" and nil match
// every object.
func (t *token) object(class uint, label string, id []byte) (pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}
	if label != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	}
	if id != nil {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	if err := t.ctx.FindObjectsInit(t.session, template); err != nil {
		return 0, err
	}
	handles, _, err := t.ctx.FindObjects(t.session, 2)
	if err := errors.Join(err, t.ctx.FindObjectsFinal(t.session)); err != nil {
		return 0, err
	}
	switch len(handles) {
	case 0:
		return 0, errNoObject
	case 1:
		return handles[0], nil
	}
	return 0, errors.New("several keys have this label; choose one with id=")
}

// attribute returns one attribute of an object.
func (t *token) attribute(h pkcs11.ObjectHandle, typ uint) ([]byte, error) {
	a, err := t.ctx.GetAttributeValue(t.session, h, []*pkcs11.Attribute{pkcs11.NewAttribute(typ, nil)})
	if err != nil {
		return nil, err
	}
	return a[0].Value, nil
}

// tokenKey is a private key in a token.
type tokenKey struct {
	token  *token
	handle pkcs11.ObjectHandle
	public crypto.PublicKey
	again  bool // each signature needs a login
}

// key returns the private key h. Its public key comes from the public key or certificate
// with the same identifier or label, or from h itself if it is an RSA key.
func (t *token) key(h pkcs11.ObjectHandle) (*tokenKey, error) {
	k := &tokenKey{token: t, handle: h}
	if again, err := t.attribute(h, pkcs11.CKA_ALWAYS_AUTHENTICATE); err == nil {
		k.again = slices.Contains(again, 1)
	}
	typ, err := t.attribute(h, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	if ulong(typ) == pkcs11.CKK_RSA {
		if k.public, err = t.rsaKey(h); err == nil {
			return k, nil
		}
	}
	id, _ := t.attribute(h, pkcs11.CKA_ID)
	label, _ := t.attribute(h, pkcs11.CKA_LABEL)
	for _, id := range [][]byte{id, nil} {
		for _, label := range []string{string(label), ""} {
			if len(id) == 0 && label == "" {
				continue
			}
			if p, err := t.object(pkcs11.CKO_PUBLIC_KEY, label, id); err == nil {
				k.public, err = t.publicKey(p)
				return k, err
			}
			if c, err := t.object(pkcs11.CKO_CERTIFICATE, label, id); err == nil {
				if k.public, err = t.certified(c); err == nil {
					return k, nil
				}
			}
		}
	}
	return nil, errors.New("the token does not have the public key that belongs to this private key")
}

// publicKey returns the public key object h.
func (t *token) publicKey(h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	typ, err := t.attribute(h, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	switch ulong(typ) {
	case pkcs11.CKK_RSA:
		return t.rsaKey(h)
	case pkcs11.CKK_EC, ckkECEdwards:
		params, err := t.attribute(h, pkcs11.CKA_EC_PARAMS)
		if err != nil {
			return nil, err
		}
		point, err := t.attribute(h, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		return parseECPoint(params, point)
	}
	return nil, fmt.Errorf("keys of PKCS#11 type %#x are not supported", ulong(typ))
}

func (t *token) rsaKey(h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	n, err := t.attribute(h, pkcs11.CKA_MODULUS)
	if err != nil {
		return nil, err
	}
	e, err := t.attribute(h, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, err
	}
	return rsaPublicKey(n, e)
}

// certified returns the key in the certificate object h.
func (t *token) certified(h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	der, err := t.attribute(h, pkcs11.CKA_VALUE)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return c.PublicKey, nil
}

// Public implements crypto.Signer.
func (k *tokenKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer. RSA signatures have the format of PKCS #1 v1.5, ECDSA
// signatures are in DER.
func (k *tokenKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	input, form, err := tokenInput(k.public, digest, opts)
	if err != nil {
		return nil, err
	}
	mechanism := map[signatureForm]uint{rsaForm: pkcs11.CKM_RSA_PKCS, ecdsaForm: pkcs11.CKM_ECDSA, eddsaForm: ckmEDDSA}[form]
	t := k.token
	if err := t.ctx.SignInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, k.handle); err != nil {
		return nil, err
	}
	if k.again {
		if err := t.ctx.Login(t.session, pkcs11.CKU_CONTEXT_SPECIFIC, t.pin); err != nil {
			return nil, fmt.Errorf("login for the signature: %w", err)
		}
	}
	signature, err := t.ctx.Sign(t.session, input)
	if err != nil {
		return nil, err
	}
	if form == ecdsaForm {
		return encodeECDSA(signature)
	}
	return signature, nil
}
