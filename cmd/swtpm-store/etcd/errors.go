package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// classify wraps err in the error of package driver that corresponds to it. If the request got no
// reply, that is other: ErrUnknown if the request may have changed something.
func classify(err, other error) error {
	if err == nil {
		return nil
	}
	m := meaning(err, other)
	if errors.Is(m, driver.ErrDenied) {
		return fmt.Errorf("%w: %w; %s", m, err, grant(err))
	}
	return fmt.Errorf("%w: %w", m, err)
}

// refusals are the errors with which etcd refuses a request because of the user or its rights. None
// of them changes anything.
var refusals = []error{
	rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthNotEnabled,
	rpctypes.ErrAuthOldRevision, rpctypes.ErrUserNotFound, rpctypes.ErrRoleNotFound, rpctypes.ErrRoleNotGranted, rpctypes.ErrPermissionNotGranted,
	rpctypes.ErrInvalidAuthMgmt,
}

// isOneOf reports whether err is one of all.
func isOneOf(err error, all []error) bool {
	return slices.ContainsFunc(all, func(e error) bool { return errors.Is(err, e) })
}

// grant returns the remedy for a refusal.
func grant(err error) string {
	switch err = rpctypes.Error(err); {
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return "etcd has authentication enabled, and this host names no user: set [auth] in store.toml, or [tls] certificate to one whose name is a user of etcd"
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserNotFound):
		return "correct user and password-file of [auth] in store.toml, or the password in etcd (etcdctl user passwd)"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return "in etcd, grant the user of [auth] or of the certificate a role with readwrite on the prefix (etcdctl user grant-role, role grant-permission --prefix=true)"
	}
	return "check [auth] in store.toml, the certificate of this host, and the user and its role in etcd"
}

func meaning(err, other error) error {
	err = rpctypes.Error(err)
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return driver.ErrLease
	case errors.Is(err, rpctypes.ErrNoSpace):
		return driver.ErrQuota
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return driver.ErrTooLarge
	case errors.Is(err, rpctypes.ErrNoLeader):
		return driver.ErrQuorum // the member refuses before it proposes a change to the others
	case isOneOf(err, refusals):
		return driver.ErrDenied
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return other
	}
	var e rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated:
		return driver.ErrDenied
	case codes.ResourceExhausted, codes.OutOfRange, codes.InvalidArgument:
		return driver.ErrTooLarge
	}
	return other
}

// complete returns an error unless a reply to a transaction has the responses to n operations.
// Without this check, a state whose last parts are missing in the reply would look like another
// state.
func complete(rsp *clientv3.TxnResponse, n int) error {
	if len(rsp.Responses) != n {
		return fmt.Errorf("%w: it has answered %d of %d operations", driver.ErrUnreachable, len(rsp.Responses), n)
	}
	return nil
}
