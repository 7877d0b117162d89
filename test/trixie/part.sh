#!/bin/sh
# The part of the suite that depends on the release, for CI: the first command of README,
# the programs compared with Debian's swtpm, certificates compared with OpenSSL, the sandbox, libtpms.
# Left out is what kills and damages for minutes; `make trixie` has all.
set -eu
./run
./run stop
export SWTPM_TEST_REQUIRE=1
go test -timeout 20m . ./cmd/... ./internal/ca/... ./internal/daemon ./internal/emul ./internal/emul/libtpms \
	./internal/io/cuse ./internal/sandbox ./internal/setup/... ./test/compare
go test -parallel 4 -timeout 20m -skip 'Killed|Crash|PowerCut|Damage|Fault|Keep|Resume|Completion|Record' ./test/e2e
