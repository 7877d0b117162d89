# Targets for users: run, stop, build, test, bench, install, uninstall. CI: .ci/run.

prefix  ?= /usr/local
PREFIX  ?= $(prefix)
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
INCLUDEDIR ?= $(PREFIX)/include
LIBDIR  ?= $(PREFIX)/lib/swtpm
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSCONFDIR ?= /etc
DOCDIR  ?= $(PREFIX)/share/doc/swtpm-go
GO      ?= go

# Callers look for both names of a program, and some of them refuse symbolic links and
# scripts: the second name is a hard link, or a copy where a file system has none.
PROGRAMS := swtpm swtpm-ioctl swtpm-bios swtpm-cert swtpm-localca swtpm-setup
# Programs that swtpm executes; installed in LIBDIR.
HELPERS := swtpm-admin
# Programs without completion, installed in BINDIR.
BROKERS := swtpm-store
ALIASES  := swtpm_ioctl swtpm_bios swtpm_cert swtpm_localca swtpm_setup

# $(ALIAS) FILE NAME gives a program its second name.
ALIAS = alias() { ln -f "$$1" "$$2" 2>/dev/null || { rm -f "$$2" && cp -p "$$1" "$$2"; }; }; alias

# The same sources give the same programs, in a clone and without git.
# swtpm has no profiler, so the runtime needs no memory for the stacks of profiles: profstackdepth=0.
# The go command knows no //go:debug for that. The other settings repeat those of cmd/swtpm/main.go.
DEBUG_SWTPM := containermaxprocs=0,decoratemappings=0,updatemaxprocs=0,profstackdepth=0
GOFLAGS_BUILD := -trimpath -buildvcs=false -ldflags='-s -w' \
	-ldflags='github.com/swtpm-go/swtpm/cmd/swtpm=-s -w -X=runtime.godebugDefault=$(DEBUG_SWTPM)'

# Go 1.26's new garbage collector costs each TPM 30 page faults at the start and 70 kB. A
# later Go may not know the old one. ARCHITECTURE.md, "A start has few page faults", lists the
# settings that were measured.
ifndef GOEXPERIMENT
GOEXPERIMENT := $(shell GOEXPERIMENT=nogreenteagc $(GO) version >/dev/null 2>&1 && echo nogreenteagc)
endif
export GOEXPERIMENT

# All targets compile with the same settings, so that they share Go's cache.
export GOFLAGS := $(filter-out -trimpath,$(shell $(GO) env GOFLAGS)) -trimpath

# The C code processes input of the guest and has keys: use the compiler's hardening.
export CGO_CFLAGS ?= -O2 -g -fstack-protector-strong -D_FORTIFY_SOURCE=2

# The directory for completion scripts depends on DESTDIR, so that two installations can run at
# the same time.
COMPLETION = build/completion$(subst /,_,$(DESTDIR))

.PHONY: all build run stop test unit record race raceprograms pure lint fuzz fuzzlive newer full trixie libvirt guest kernel units systemd deb debtest policy monitoring store bench install uninstall clean

all: build

build:
	@sh contrib/deps.sh build
	@mkdir -p bin
	@for p in $(PROGRAMS) $(HELPERS) $(BROKERS); do \
		$(GO) build $(GOFLAGS_BUILD) -o bin/$$p ./cmd/$$p || exit 1; \
	done
	@for a in $(ALIASES); do $(ALIAS) bin/$$(echo $$a | tr _ -) bin/$$a || exit 1; done

run: build
	@sh contrib/deps.sh run
	@sh contrib/quickstart.sh start

stop:
	@sh contrib/quickstart.sh stop

# The tests of the programs mostly wait, for clients and disks, so more of them than there are
# processors run at once.
AT_ONCE ?= 4

# The whole suite, with the reference and the real clients. The longest package begins first.
test: build
	@sh contrib/deps.sh test
	SWTPM_TEST_REQUIRE=1 $(GO) test -parallel $(AT_ONCE) -timeout 30m ./test/e2e ./...

# The same binaries with a newer libtpms, from Debian's unstable suite, compared with the
# reference of that release.
newer: build
	sh test/newer/fetch.sh build/newer
	SWTPM_NEWER_LIBTPMS=$(CURDIR)/build/newer $(GO) test -count=1 -v ./test/newer
	SWTPM_NEWER_LIBTPMS=$(CURDIR)/build/newer $(GO) test -count=1 -v -run '^(TestResumeUpgrade|TestGuardReference)$$' ./test/e2e

# The suite on Debian 13, in a root file system of its own; as root. $TRIXIE is the command that
# runs there.
TRIXIE ?= ./run && ./run stop && ./run test

trixie:
	@sh contrib/deps.sh trixie
	sh test/trixie/root.sh build/trixie
	sh test/trixie/run.sh build/trixie sh -c '$(TRIXIE)'

# Every operation that stores on a full disk, on tmpfs, on ext4 and in a cluster store, and every
# error, kill and power cut of a store; all rows of the matrices with a TPM 1.2; many snapshots and
# clones; pairs of a disk and a TPM; as root. The suite runs a part of it.
full: build
	@sh contrib/deps.sh test
	SWTPM_TEST_FULL=1 SWTPM_TEST_REQUIRE=1 $(GO) test -count=1 -v -timeout 60m -run '^TestFull|^TestStoreFaults$$|^TestPowerCut|^TestCopies$$|^TestKillLoses|^TestResumeUnderLoad$$|^TestResumeInStore$$|^TestBrokerKilled$$|Hops$$|^TestSnapshotForms$$|^TestMigration$$|^TestMigrationThatFails$$|^TestBiosOfBoth$$|^TestGuardAfterMigration$$|^TestSetupKilled$$|^TestTerminateDuringErrors$$|^TestRestartSystemErrors$$|^TestStateRekey$$|^TestStateTransfer$$' ./test/e2e
	SWTPM_TEST_FULL=1 SWTPM_TEST_REQUIRE=1 $(GO) test -count=1 -timeout 30m ./test/compare
	SWTPM_TEST_SNAPSHOTS=1000 SWTPM_TEST_CLONES=200 SWTPM_TEST_REQUIRE=1 $(GO) test -count=1 -v -timeout 30m -run '^TestLiveSnapshot$$|^TestSnapshotPause$$|^TestClones$$' ./test/e2e
	@sh contrib/deps.sh guest
	sh test/guest/fetch.sh build/guest
	SWTPM_TEST_PAIRS=10 SWTPM_GUEST=$(CURDIR)/build/guest $(GO) test -count=1 -v -timeout 60m -run '^TestEncryptedDisk$$' ./test/guest
	SWTPM_GUEST_BOOTS=all SWTPM_GUEST=$(CURDIR)/build/guest $(GO) test -count=1 -v -timeout 60m -run '^(TestBoots|TestSecureBoot)$$' ./test/guest
	SWTPM_TEST_FULL=1 SWTPM_TEST_LEDGER_RUNS=500 SWTPM_TEST_LEDGER_EXTENDS=1000000 SWTPM_TEST_REQUIRE=1 $(GO) test -count=1 -v -timeout 60m -run '^TestLedger' ./test/e2e

# Virtual machines of libvirt, which finds our swtpm in its PATH; as root.
libvirt: build
	@sh contrib/deps.sh libvirt
	SWTPM_LIBVIRT=1 $(GO) test -count=1 -v -timeout 35m ./test/libvirt

# Virtual machines of QEMU with a kernel from Debian's packages.
# SWTPM_TEST_MOVES=20 moves a machine more often between two hosts of a cluster store.
# SWTPM_GUEST_BOOTS=all tries all boots after which a secret does not open; SWTPM_GUEST_KEEP=DIR keeps their ledgers.
guest: build
	@sh contrib/deps.sh guest
	sh test/guest/fetch.sh build/guest
	SWTPM_GUEST=$(CURDIR)/build/guest $(GO) test -count=1 -v -timeout 45m ./test/guest

# A kernel with its drivers for the vTPM proxy and CUSE, and the clients of these drivers.
kernel:
	@sh contrib/deps.sh kernel
	sh test/guest/fetch.sh build/guest
	sh test/kernel/image.sh build/kernel
	sh test/kernel/profiles.sh build/kernel/profiles || echo "no profiles of Ubuntu's swtpm: TestForeignProfile is skipped" >&2
	@rm -rf build/kernel/install
	@$(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/kernel/install PREFIX=/usr
	SWTPM_GUEST=$(CURDIR)/build/guest SWTPM_KERNEL=$(CURDIR)/build/kernel \
		$(GO) test -count=1 -v -timeout 45m ./test/kernel

# The units as they are installed, read by systemd's own tools; nothing is started.
units:
	@sh contrib/deps.sh units
	@rm -rf build/units
	@$(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/units PREFIX=/usr
	@sh test/systemd/units.sh $(CURDIR)/build/units

# The policies for AppArmor and SELinux, compiled and checked; nothing is loaded.
policy:
	@sh contrib/deps.sh policy
	sh test/policy/check.sh build/policy

# The alerts and the dashboard, with Prometheus's own tool.
monitoring:
	sh test/monitoring/check.sh build/monitoring

# The units in a container with systemd as process 1; as root.
systemd:
	@sh contrib/deps.sh systemd
	sh test/systemd/image.sh build/systemd/image
	@rm -rf build/systemd/install
	@$(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/systemd/install PREFIX=/usr
	SWTPM_SYSTEMD=$(CURDIR)/build/systemd $(GO) test -count=1 -v -timeout 35m -run TestSystemd ./test/systemd
	@rm -rf build/systemd-libvirt/install && mkdir -p build/systemd-libvirt && ln -s ../systemd/install build/systemd-libvirt/install
	sh test/systemd/image.sh build/systemd-libvirt/image libvirt-daemon-system,libvirt-clients,qemu-system-x86
	SWTPM_SYSTEMD=$(CURDIR)/build/systemd-libvirt SWTPM_SYSTEMD_RUN=TestLibvirt $(GO) test -count=1 -v -timeout 35m -run TestSystemd ./test/systemd

# A Debian package of this machine's release and architecture.
DEB = build/swtpm-go.deb
VERSION = $$(sed -n 's/^const Version = "\(.*\)"$$/\1/p' internal/program/program.go)

deb:
	@sh contrib/deps.sh deb
	@rm -rf build/deb
	@umask 022 && $(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/deb PREFIX=/usr
	@umask 022 && sh contrib/debian/build.sh build/deb $(DEB) $(VERSION)

# Run lintian on the package, build it twice and compare, and test it in a container with
# systemd as process 1; as root.
debtest: deb
	@sh contrib/deps.sh debtest
	@sh test/debian/check.sh $(DEB)
	sh test/systemd/image.sh build/systemd/image
	@rm -rf build/debtier && mkdir -p build/debtier/install build/debtier/image && ln -s ../../systemd/image/root build/debtier/image/root
	@cp $(DEB) build/debtier/install
	SWTPM_SYSTEMD=$(CURDIR)/build/debtier SWTPM_SYSTEMD_RUN=TestPackage $(GO) test -count=1 -v -timeout 35m -run TestSystemd ./test/systemd

# The tests that need neither libtpms nor a client.
unit:
	CGO_ENABLED=0 $(GO) test $(PURE)

PURE = $$($(GO) list ./internal/... | grep -v -e internal/emul/libtpms -e test/bench)

# The system calls of confined processes in tests of the programs, and with the libtpms, libc
# and OpenSSL of Debian's unstable suite: all that the sandbox allows, none that is fatal; as
# root. test/e2e/chosen_test.go lists the tests; RECORD=. records all.
RECORD ?=
record:
	@sh contrib/deps.sh test
	SWTPM_TEST_RECORD=1 SWTPM_TEST_REQUIRE=1 $(GO) test -count=1 -parallel $(AT_ONCE) -timeout 30m -run '$(RECORD)' ./test/e2e
	sh test/newer/fetch.sh build/newer
	SWTPM_TEST_RECORD=1 SWTPM_NEWER_LIBTPMS=$(CURDIR)/build/newer $(GO) test -count=1 -timeout 20m ./test/newer

# All packages, and the programs in the tests where threads meet (test/e2e/chosen_test.go), built
# with the race detector. Without the option each program waits for a second at its end, for
# reports of other threads. The tests of ONE_THREAD repeat a store in one thread, for each of
# its system calls or bits.
ONE_THREAD = ^(TestPowerCut|TestBatchPowerCut|TestBatchFaults|TestFaultWithoutLoad|TestEveryFlip)$$
race:
	@sh contrib/deps.sh test
	$(GO) test -race -timeout 30m -skip '$(ONE_THREAD)' ./internal/... ./cmd/...

raceprograms:
	@sh contrib/deps.sh test
	GORACE=atexit_sleep_ms=20 SWTPM_TEST_REQUIRE=1 SWTPM_TEST_BUILDFLAGS=-race SWTPM_TEST_LEDGER_RUNS=4 $(GO) test -count=1 -parallel $(AT_ONCE) -timeout 30m ./test/e2e

# Vet also for architectures with 32-bit words and with the other byte order.
pure:
	CGO_ENABLED=0 $(GO) vet $(PURE)
	@for arch in 386 arm64 s390x; do \
		echo "vet for $$arch"; \
		GOARCH=$$arch CGO_ENABLED=0 $(GO) vet $(PURE) || exit 1; \
	done
	CGO_ENABLED=0 $(GO) test $(PURE)

lint:
	@sh contrib/deps.sh test
	@out=$$(gofmt -l *.go cmd internal test) || exit 1; test -z "$$out" || { echo "not gofmt-ed: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck -checks=all ./...
	$(GO) run ./test/prose
	@for m in man/*; do groff -man -Tutf8 -wall -z $$m || exit 1; done
	@for s in run contrib/*.sh test/*/*.sh test/*/testdata/*.sh; do sh -n $$s || exit 1; done
	@bash -n .ci/run

FUZZTIME ?= 3s

# Each fuzz target for FUZZTIME, which is enough to notice that a change broke a target:
# make fuzz FUZZTIME=10m searches. An input that fails is kept as a seed, and fails the later
# runs and the tests.
fuzz:
	@sh contrib/deps.sh build
	@pkgs=$$($(GO) list ./internal/... ./cmd/...) || exit 1; GO="$(GO)" sh test/fuzz.sh $(FUZZTIME) $$pkgs

# Running emulators, for LIVETIME with each version: make fuzzlive LIVETIME=10m.
LIVETIME ?= 30s
fuzzlive:
	@sh contrib/deps.sh build
	SWTPM_FUZZLIVE=$(LIVETIME) $(GO) test -count=1 -v -timeout 60m ./test/fuzzlive

# TPMs of three hosts each on one cluster store, with faults, as root: EPISODES=1000 takes
# about 40 minutes. The log names the seed; SWTPM_STORE_SEED repeats the order of the faults.
EPISODES ?= 100
store:
	@sh contrib/deps.sh test
	SWTPM_TEST_REQUIRE=1 SWTPM_STORE_EPISODES=$(EPISODES) $(GO) test -count=1 -v -timeout 180m ./test/store

# The rows of the cluster store need etcd: BENCHFLAGS="-only store".
bench: build
	@sh contrib/deps.sh test
	$(GO) run ./test/bench -ours bin/swtpm $(BENCHFLAGS)

install: build
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man3
	install -m 0755 $(addprefix bin/,$(PROGRAMS) $(BROKERS)) $(DESTDIR)$(BINDIR)
	for a in $(ALIASES); do $(ALIAS) $(DESTDIR)$(BINDIR)/$$(echo $$a | tr _ -) $(DESTDIR)$(BINDIR)/$$a || exit 1; done
	install -m 0644 man/*.8 $(DESTDIR)$(MANDIR)/man8
	install -m 0644 man/*.5 $(DESTDIR)$(MANDIR)/man5
	install -m 0644 man/*.3 $(DESTDIR)$(MANDIR)/man3
	install -d $(DESTDIR)$(INCLUDEDIR)/swtpm
	install -m 0644 include/swtpm/*.h $(DESTDIR)$(INCLUDEDIR)/swtpm
	for a in $(ALIASES); do \
		p=$$(echo $$a | tr _ -); cd $(DESTDIR)$(MANDIR)/man8 || exit 1; \
		for page in $$a $$p; do \
			for other in $$a $$p; do test -e $$other.8 || ! test -e $$page.8 || ln -s $$page.8 $$other.8; done; \
		done; \
		cd - >/dev/null; \
	done
	rm -rf $(COMPLETION) && mkdir -p $(COMPLETION)
	bin/swtpm completion bash >$(COMPLETION)/swtpm
	bin/swtpm completion zsh >$(COMPLETION)/_swtpm
	bin/swtpm completion fish >$(COMPLETION)/swtpm.fish
	for a in $(ALIASES); do \
		p=$$(echo $$a | tr _ -); cd $(COMPLETION) || exit 1; \
		$(CURDIR)/bin/$$a --completion bash >$$a && cp $$a $$p && \
		$(CURDIR)/bin/$$a --completion zsh >_$$a && \
		$(CURDIR)/bin/$$a --completion fish >$$a.fish && cp $$a.fish $$p.fish || exit 1; \
		cd $(CURDIR); \
	done
	install -d $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	install -m 0644 $(addprefix $(COMPLETION)/,$(PROGRAMS) $(ALIASES)) $(DESTDIR)$(BASHDIR)
	install -m 0644 $(COMPLETION)/_* $(DESTDIR)$(ZSHDIR)
	install -m 0644 $(COMPLETION)/*.fish $(DESTDIR)$(FISHDIR)
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d
	install -m 0644 contrib/systemd/*@.service contrib/systemd/*@.socket contrib/systemd/swtpm-anchor.* contrib/systemd/swtpm-store.* $(DESTDIR)$(UNITDIR)
	sed -i 's,^ExecStart=/usr/local/bin/,ExecStart=$(BINDIR)/,' $(DESTDIR)$(UNITDIR)/swtpm@.service $(DESTDIR)$(UNITDIR)/swtpm-manufacture@.service $(DESTDIR)$(UNITDIR)/swtpm-anchor.service $(DESTDIR)$(UNITDIR)/swtpm-store.service
	install -m 0644 contrib/systemd/swtpm.target contrib/systemd/swtpm.slice contrib/systemd/swtpm-metrics.* $(DESTDIR)$(UNITDIR)
	sed -i 's,^ExecStart=/usr/local/lib/swtpm/,ExecStart=$(LIBDIR)/,' $(DESTDIR)$(UNITDIR)/swtpm-metrics.service
	install -m 0644 contrib/systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/swtpm.conf
	install -m 0644 contrib/systemd/tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/swtpm.conf
	install -d $(DESTDIR)$(DOCDIR)/examples
	install -d $(DESTDIR)$(PREFIX)/lib/udev/rules.d
	install -m 0644 contrib/systemd/60-swtpm.rules $(DESTDIR)$(PREFIX)/lib/udev/rules.d
	install -m 0644 contrib/systemd/tcp.conf contrib/systemd/container.conf contrib/systemd/cuse.conf contrib/systemd/one-user.conf $(DESTDIR)$(DOCDIR)
	install -m 0644 examples/*.toml examples/swtpm-localca.* $(DESTDIR)$(DOCDIR)/examples
	install -m 0755 examples/snapshot-virsh $(DESTDIR)$(DOCDIR)/examples
	install -d $(DESTDIR)$(DOCDIR)/docs
	install -m 0644 docs/*.md $(DESTDIR)$(DOCDIR)/docs
	install -d $(DESTDIR)$(DOCDIR)/grafana $(DESTDIR)$(DOCDIR)/prometheus
	install -m 0644 contrib/grafana/*.json $(DESTDIR)$(DOCDIR)/grafana
	install -m 0644 contrib/prometheus/*.yml $(DESTDIR)$(DOCDIR)/prometheus
	install -d $(DESTDIR)$(LIBDIR)
	install -m 0644 examples/default.toml $(DESTDIR)$(LIBDIR)
	install -m 0755 $(addprefix bin/,$(HELPERS)) $(DESTDIR)$(LIBDIR)
	install -d $(DESTDIR)$(PREFIX)/share/swtpm
	ln -sfr $(DESTDIR)$(BINDIR)/swtpm_localca $(DESTDIR)$(PREFIX)/share/swtpm/swtpm-localca
	install -m 0755 contrib/swtpm-create-user-config-files $(DESTDIR)$(PREFIX)/share/swtpm
	sed -i 's,^exec /usr/bin/,exec $(BINDIR)/,' $(DESTDIR)$(PREFIX)/share/swtpm/swtpm-create-user-config-files
	install -d $(DESTDIR)$(SYSCONFDIR)
	for f in swtpm-localca.conf swtpm-localca.options swtpm_setup.conf; do \
		to=$(DESTDIR)$(SYSCONFDIR)/$$f; test -e $$to || { \
			install -m 0644 contrib/etc/$$f $$to && \
			sed -i 's, /usr/bin/, $(BINDIR)/,' $$to; } || exit 1; \
	done
	install -d $(DESTDIR)$(SYSCONFDIR)/swtpm/ca
	for f in swtpm_setup.conf swtpm-localca.conf; do \
		to=$(DESTDIR)$(SYSCONFDIR)/swtpm/ca/$$f; test -e $$to || { \
			install -m 0644 contrib/systemd/ca/$$f $$to && \
			sed -i 's,= /usr/local/bin/,= $(BINDIR)/,' $$to; } || exit 1; \
	done
	install -d $(DESTDIR)$(DOCDIR)/apparmor $(DESTDIR)$(DOCDIR)/selinux
	install -m 0644 contrib/apparmor/* $(DESTDIR)$(DOCDIR)/apparmor
	install -m 0644 contrib/selinux/swtpm.* contrib/selinux/README $(DESTDIR)$(DOCDIR)/selinux

# Remove the files of install. A changed file in /etc stays, and so does a directory with other
# files.
uninstall:
	@rm -rf build/uninstall
	@$(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/uninstall
	@cd build/uninstall && find . -type f -o -type l | while read -r f; do \
		case $$f in .$(SYSCONFDIR)/*) cmp -s $$f "$(DESTDIR)/$$f" || continue ;; esac; \
		rm -f "$(DESTDIR)/$$f" || exit 1; \
	done
	@cd build/uninstall && find . -depth -mindepth 1 -type d -path '*swtpm*' | while read -r d; do \
		test ! -d "$(DESTDIR)/$$d" || rmdir --ignore-fail-on-non-empty "$(DESTDIR)/$$d" || exit 1; \
	done

clean:
	rm -rf bin build
