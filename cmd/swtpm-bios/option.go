package main

import "github.com/swtpm-go/swtpm/internal/cli"

// defaultPort is the TCP port of the data channel.
const defaultPort = "6545"

// startupType selects the Startup. The values, except startupNone, are the parameter of
// TPM_Startup.
type startupType uint16

const (
	startupNone        startupType = 0
	startupClear       startupType = 1
	startupState       startupType = 2
	startupDeactivated startupType = 3
)

// options is a parsed command line.
type options struct {
	target cli.Target

	tpm2     bool
	startup  startupType
	setup    bool // TPM 1.2: physical presence, enable, activate
	selfTest bool // -cs
	activate bool // -ea: check whether a TPM 1.2 must be reset
	giveUp   bool // -u

	cli.Information
}

// table returns all options in the order of the usage; they fill o.
func (o *options) table() []cli.Option {
	flag := func(set func()) func(arg, file string) error {
		return func(_, _ string) error { set(); return nil }
	}
	// Compat: C-255: each choice of a Startup undoes an -o before it.
	startup := func(typ startupType, setup bool) func(arg, file string) error {
		return flag(func() { o.startup, o.setup = typ, setup })
	}
	all := append(o.target.Options(defaultPort), []cli.Option{
		{Name: "tpm2", Help: "initialize a TPM 2.0; without it, a TPM 1.2", Set: flag(func() { o.tpm2 = true })},
		{Name: "c", Help: "startup clear (default)", Set: startup(startupClear, true)},
		{Name: "s", Help: "startup state", Set: startup(startupState, true)},
		{Name: "d", Help: "startup deactivated, do not enable the TPM;\non a TPM 2.0 no startup", Set: startup(startupDeactivated, false)},
		{Name: "n", Help: "no startup", Set: startup(startupNone, true)},
		{Name: "o", Help: "startup only; an option -c, -s or -n after it\nundoes this", Set: flag(func() { o.setup = false })},
		{Name: "cs", Help: "run TPM_ContinueSelfTest on a TPM 1.2,\nTPM2_IncrementalSelfTest on a TPM 2.0", Set: flag(func() { o.selfTest = true })},
		{Name: "ea", Help: "make sure that a TPM 1.2 is activated; end with\nexit code 129 if it must be reset for that", Set: flag(func() { o.activate = true })},
		{Name: "u", Help: "give up physical presence; on a TPM 2.0, set the\nplatform hierarchy to a random password", Set: flag(func() { o.giveUp = true })},
	}...)
	return append(all, o.Information.Options("v", "h")...)
}

// misuse is a message of the option parser.
type misuse struct{ error }

// parse parses the command line and ignores operands. Without a target option the
// environment selects it; env looks up a variable as os.LookupEnv does.
func parse(args []string, env func(string) (string, bool)) (*options, error) {
	o := &options{startup: startupClear, setup: true}
	_, err := cli.Getopt{OneDash: true, Wrong: func(err error) error { return misuse{err} }}.Parse(o.table(), args)
	if err != nil {
		return nil, err
	}
	if t := &o.target; t.Device == nil && t.TCP == nil && t.Unix == nil {
		fromEnvironment(t, env)
	}
	return o, nil
}

// fromEnvironment sets the target that the variables of the TrouSerS daemon select:
//
//	TCSD_USE_TCP_DEVICE       if it is set, TCP is used
//	TCSD_TCP_DEVICE_HOSTNAME  localhost if not set
//	TCSD_TCP_DEVICE_PORT      6545 if not set
//	TPM_DEVICE                otherwise; /dev/tpm0 if not set
func fromEnvironment(t *cli.Target, env func(string) (string, bool)) {
	get := func(name, fallback string) string {
		if s, ok := env(name); ok {
			return s
		}
		return fallback
	}
	if _, ok := env("TCSD_USE_TCP_DEVICE"); ok {
		t.TCP = &cli.Address{Host: get("TCSD_TCP_DEVICE_HOSTNAME", "localhost"), Port: get("TCSD_TCP_DEVICE_PORT", defaultPort)}
		return
	}
	device := get("TPM_DEVICE", "/dev/tpm0")
	t.Device = &device
}
