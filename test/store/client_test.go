package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// link is the connection of a client to a TPM.
type link struct {
	net.Conn
	patience time.Duration
	broken   bool // a response may still arrive, or none will
}

// Send implements transport.TPM.
func (l *link) Send(cmd []byte) ([]byte, error) {
	_ = l.SetDeadline(time.Now().Add(l.patience))
	rsp := make([]byte, 4096)
	_, err := l.Write(cmd)
	n := 0
	if err == nil {
		n, err = io.ReadAtLeast(l, rsp, 10)
	}
	if err == nil {
		_, err = io.ReadFull(l, rsp[n:max(n, int(binary.BigEndian.Uint32(rsp[2:])))])
		n = max(n, int(binary.BigEndian.Uint32(rsp[2:])))
	}
	l.broken = l.broken || err != nil
	return rsp[:n], err
}

const index = tpm2.TPMHandle(0x01500001)

// plaintext is an authorization value in the state, which must not be readable in the store.
const plaintext = "a secret value of the guest"

// define makes the counter and increments it once.
func define(tpm transport.TPM) error {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		Auth:       tpm2.TPM2BAuth{Buffer: []byte(plaintext)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, AuthWrite: true, NoDA: true, NT: tpm2.TPMNTCounter}}),
	}.Execute(tpm)
	if err == nil || errors.Is(err, tpm2.TPMRCNVDefined) { // by an earlier try without an answer
		_, err = increment(tpm)
	}
	return err
}

func counter(tpm transport.TPM) (tpm2.NamedHandle, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	return tpm2.NamedHandle{Handle: index, Name: public.NVName}, nil
}

func increment(tpm transport.TPM) (uint64, error) {
	at, err := counter(tpm)
	if err == nil {
		_, err = tpm2.NVIncrement{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: at}.Execute(tpm)
	}
	return 0, err
}

func read(tpm transport.TPM) (uint64, error) {
	at, err := counter(tpm)
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: at, Size: 8}.Execute(tpm)
	if err != nil {
		return 0, err
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, fmt.Errorf("%d bytes of a counter", len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// on connects to the instance and calls f.
func on(i *lab.Instance, patience time.Duration, f func(transport.TPM) (uint64, error)) (uint64, error) {
	conn, err := net.Dial("unix", i.Socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return f(&link{Conn: conn, patience: patience})
}

// persist repeats f until it succeeds: a busy store is a reason to try again for a TPM's client.
func persist(i *lab.Instance, f func(transport.TPM) (uint64, error)) (uint64, error) {
	return eventually(i, harness.EventTimeout, f)
}

// eventually repeats f until it succeeds or limit has passed.
func eventually(i *lab.Instance, limit time.Duration, f func(transport.TPM) (uint64, error)) (n uint64, err error) {
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		n, err = on(i, limit, f)
		switch {
		case err == nil:
			return n, nil
		case i.Ended():
			return 0, fmt.Errorf("the TPM on host %s has ended: %s", i.Host.Name, i.Out.String())
		case time.Since(begin) > limit:
			return 0, fmt.Errorf("the TPM on host %s does not answer within %v: %w; %s; broker: %s", i.Host.Name, limit, err, i.Out.String(), i.Host.Broker.Out.String())
		}
	}
}
