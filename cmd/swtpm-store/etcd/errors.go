package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// classify wraps err in the error of package driver that it means. other is the one of a
// request without a reply: ErrUnknown if it may have changed something.
func classify(err, other error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", meaning(err, other), err)
}

func meaning(err, other error) error {
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return driver.ErrLease
	case errors.Is(err, rpctypes.ErrNoSpace):
		return driver.ErrQuota
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return driver.ErrTooLarge
	case errors.Is(err, rpctypes.ErrNoLeader):
		return driver.ErrQuorum // the member refuses before it proposes anything
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty),
		errors.Is(err, rpctypes.ErrInvalidAuthToken), errors.Is(err, rpctypes.ErrAuthNotEnabled):
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
