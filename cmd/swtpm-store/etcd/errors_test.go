package etcd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// TestRefusals checks that each refusal for the user or its rights is ErrDenied, also of a change that
// would else count as one without a reply or as too large, and that it has a remedy.
func TestRefusals(t *testing.T) {
	for err, remedy := range map[error]string{
		rpctypes.ErrGRPCUserEmpty: "[auth]", rpctypes.ErrGRPCAuthFailed: "password-file", rpctypes.ErrGRPCPermissionDenied: "grant-role",
		rpctypes.ErrGRPCInvalidAuthToken: "[auth]", rpctypes.ErrGRPCAuthOldRevision: "role", rpctypes.ErrGRPCUserNotFound: "password-file",
		rpctypes.ErrGRPCRoleNotFound: "role", rpctypes.ErrGRPCAuthNotEnabled: "[auth]",
	} {
		for _, err := range []error{err, rpctypes.Error(err)} {
			got := classify(err, driver.ErrUnknown)
			if !errors.Is(got, driver.ErrDenied) || errors.Is(got, driver.ErrUnknown) || !strings.Contains(got.Error(), remedy) {
				t.Errorf("%v: %v, want ErrDenied with %q", err, got, remedy)
			}
		}
	}
}

// short is a store whose replies to transactions lack the last response.
type short struct{ clientv3.KV }

type shortTxn struct{ clientv3.Txn }

func (k short) Txn(ctx context.Context) clientv3.Txn { return shortTxn{k.KV.Txn(ctx)} }

func (x shortTxn) If(all ...clientv3.Cmp) clientv3.Txn  { return shortTxn{x.Txn.If(all...)} }
func (x shortTxn) Then(all ...clientv3.Op) clientv3.Txn { return shortTxn{x.Txn.Then(all...)} }
func (x shortTxn) Else(all ...clientv3.Op) clientv3.Txn { return shortTxn{x.Txn.Else(all...)} }

func (x shortTxn) Commit() (*clientv3.TxnResponse, error) {
	rsp, err := x.Txn.Commit()
	if err == nil {
		rsp.Responses = rsp.Responses[:len(rsp.Responses)-1]
	}
	return rsp, err
}

// TestShortReply checks that a reply without all of its responses is an error, and not another state.
func TestShortReply(t *testing.T) {
	s := open(t, Options{Endpoints: []string{etcdtest.Start(t).URL}, Prefix: "/swtpm"})
	lease, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	o := driver.Owner{Host: "a", Nonce: "n"}
	token, err := s.Acquire(t.Context(), "vm", lease, o)
	if err != nil {
		t.Fatal(err)
	}
	s.client.KV = short{s.client.KV}
	for what, request := range map[string]func() error{
		"Read":     func() error { _, err := s.Read(t.Context(), "vm"); return err },
		"Acquire":  func() error { _, err := s.Acquire(t.Context(), "vm", lease, o); return err },
		"Describe": func() error { _, err := s.Describe(t.Context(), []string{"vm"}); return err },
		"Write":    func() error { _, err := s.Write(t.Context(), "vm", token, 7, driver.Change{}); return err },
	} {
		if err := request(); !errors.Is(err, driver.ErrUnreachable) {
			t.Errorf("%s: %v, want %v", what, err, driver.ErrUnreachable)
		}
	}
}
