package etcd

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
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
