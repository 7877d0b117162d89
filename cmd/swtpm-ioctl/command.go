package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// command is an option that sends requests to the TPM; see cli.Option. set parses its
// argument; nil if it has none.
type command struct {
	name, arg, file, help string
	words                 []string
	set                   func(o *options, arg string) error
	run                   func(s *cli.Streams, c *ctrl.Client, o *options) error
}

// localities are the arguments of -l and -r.
var localities = []string{"0", "1", "2", "3", "4"}

// commandTable has the commands in the order of the usage.
var commandTable = []command{
	{name: "c", run: capability, help: "get ptm capabilities"},
	{name: "i", run: plain(step{name: "INIT"}, func(c *ctrl.Client, _ *options) error { return c.Init(ctrl.InitDeleteVolatile) }),
		help: "do a hardware TPM_Init; if volatile state is found,\nit will resume the TPM with it and delete it\nafterwards"},
	{name: "stop", run: plain(step{name: "STOP"}, func(c *ctrl.Client, _ *options) error { return c.Stop() }),
		help: "stop the TPM without exiting"},
	{name: "s", run: plain(step{name: "SHUTDOWN"}, func(c *ctrl.Client, _ *options) error { return c.Shutdown() }),
		help: "shut down the TPM; stops and exits"},
	{name: "e", run: established, help: "get the tpmEstablished bit"},
	{name: "r", arg: "<loc>", words: localities, set: setLocality,
		run: plain(step{name: "RESET_TPMESTABLISHED", call: "PTM_RESET_ESTABLISHED"},
			func(c *ctrl.Client, o *options) error { return c.ResetEstablished(o.locality) }),
		help: "reset the tpmEstablished bit; use the given locality"},
	{name: "v", run: plain(step{name: "STORE_VOLATILE"}, func(c *ctrl.Client, _ *options) error { return c.StoreVolatile() }),
		help: "store the TPM's volatile data"},
	{name: "C", run: plain(step{name: "CANCEL_TPM_CMD"}, func(c *ctrl.Client, _ *options) error { return c.Cancel() }),
		help: "cancel an ongoing TPM command"},
	{name: "l", arg: "<loc>", words: localities, set: setLocality,
		run:  plain(step{name: "SET_LOCALITY"}, func(c *ctrl.Client, o *options) error { return c.SetLocality(o.locality) }),
		help: "set the locality to the given number; valid\nlocalities are 0-4"},
	{name: "h", arg: "<data>", set: setArg, run: hash,
		help: "hash the given data; if data is '-' then data are\nread from stdin"},
	{name: "save", arg: "<type>", file: "<file>", words: blobWords(), set: setArg, run: save,
		help: "store the TPM state blob of given type in a file;\ntype may be one of volatile, permanent, or savestate"},
	{name: "load", arg: "<type>", file: "<file>", words: blobWords(), set: setArg, run: load,
		help: "load the TPM state blob of given type from a file;\ntype may be one of volatile, permanent, or savestate"},
	{name: "g", run: config, help: "get configuration flags indicating which keys are in\nuse"},
	{name: "b", arg: "<buffersize>", set: setBufferSize, run: bufferSize,
		help: "set the buffer size of the TPM and get its current\nsize; get minimum and maximum supported sizes"},
	{name: "info", arg: "<flags>", set: setInfoFlags, run: info,
		help: "get TPM implementation specific information;\nflags must be an integer value"},
	{name: "lock-storage", arg: "<n>", set: setRetries,
		run:  plain(step{name: "LOCK_STORAGE"}, func(c *ctrl.Client, o *options) error { return c.LockStorage(uint32(o.number)) }),
		help: "lock the storage; try again up to n times, every 10 ms"},
}

// step is a request with its names in the messages of swtpm_ioctl.
type step struct {
	name string // in "TPM result from PTM_name"
	call string // in "Could not execute call"; "PTM_" and name if empty
}

// explain returns the message about a step that failed.
//
// Compat: C-256: scripts compare these texts.
func (s step) explain(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[tpm.Result](err); ok {
		return cli.Complain("TPM result from PTM_%s: 0x%x", s.name, uint32(r))
	}
	call := s.call
	if call == "" {
		call = "PTM_" + s.name
	}
	return cli.Complain("Could not execute %s: %s", call, cli.Strerror(err))
}

// plain returns a command of one request that prints nothing.
func plain(s step, send func(c *ctrl.Client, o *options) error) func(*cli.Streams, *ctrl.Client, *options) error {
	return func(_ *cli.Streams, c *ctrl.Client, o *options) error { return s.explain(send(c, o)) }
}

func capability(s *cli.Streams, c *ctrl.Client, _ *options) error {
	caps, err := c.Capability()
	if err != nil {
		return step{name: "GET_CAPABILITY"}.explain(err)
	}
	_, err = fmt.Fprintf(s.Out, "ptm capability is 0x%x\n", uint32(caps))
	return err
}

func established(s *cli.Streams, c *ctrl.Client, _ *options) error {
	bit, err := c.Established()
	if err != nil {
		return step{name: "GET_TPMESTABLISHED", call: "PTM_GET_ESTABLISHED"}.explain(err)
	}
	n := 0
	if bit {
		n = 1
	}
	_, err = fmt.Fprintf(s.Out, "tpmEstablished is %d\n", n)
	return err
}

func config(s *cli.Streams, c *ctrl.Client, _ *options) error {
	flags, err := c.Config()
	if err != nil {
		return step{name: "GET_CONFIG"}.explain(err)
	}
	_, err = fmt.Fprintf(s.Out, "ptm configuration flags: 0x%x\n", uint32(flags))
	return err
}

func bufferSize(s *cli.Streams, c *ctrl.Client, o *options) error {
	rep, err := c.BufferSize(uint32(o.number))
	if err != nil {
		return step{name: "SET_BUFFERSIZE"}.explain(err)
	}
	_, err = fmt.Fprintf(s.Out, "TPM buffersize: %d\nminimum size  : %d\nmaximum size  : %d\n", rep.Size, rep.Min, rep.Max)
	return err
}

func info(s *cli.Streams, c *ctrl.Client, o *options) error {
	text, err := c.Info(o.number)
	if err != nil {
		return step{name: "GET_INFO"}.explain(err)
	}
	_, err = fmt.Fprintln(s.Out, text)
	return err
}

// hash sends the argument, or stdin if the argument is "-", to the TPM to measure it, piece by
// piece.
//
// Compat: C-257: the last piece of stdin is not full, and may be empty; for an empty argument no
// piece is sent.
func hash(s *cli.Streams, c *ctrl.Client, o *options) error {
	step := func(name string) step { return step{name: name, call: "ioctl PTM_" + name} }
	if err := c.HashStart(); err != nil {
		return step("HASH_START").explain(err)
	}
	src := io.Reader(strings.NewReader(o.arg))
	if o.arg == "-" {
		src = s.In
	}
	piece := make([]byte, ctrl.MaxHash)
	for last := false; !last; {
		n, err := io.ReadFull(src, piece)
		last = err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !last {
			return cli.Complain("Could not read from stdin: %s", cli.Strerror(err))
		}
		if n == 0 && o.arg != "-" {
			break
		}
		if err := c.HashData(piece[:n]); err != nil {
			return step("HASH_DATA").explain(err)
		}
	}
	return step("HASH_END").explain(c.HashEnd())
}

// blobNames are the names of the state blobs on the command line.
var blobNames = []struct {
	name string
	blob tpm.Blob
}{{"permanent", tpm.Permanent}, {"volatile", tpm.Volatile}, {"savestate", tpm.Savestate}}

func blobWords() (words []string) {
	for _, b := range blobNames {
		words = append(words, b.name)
	}
	return words
}

// blobType returns the state blob with a name.
func blobType(s string) (tpm.Blob, bool) {
	for _, b := range blobNames {
		if b.name == s {
			return b.blob, true
		}
	}
	return 0, false
}

// save writes a state blob, without the encryption of the emulator, to a file that only its
// owner can read. The file is empty if the blob does not exist.
func save(s *cli.Streams, c *ctrl.Client, o *options) (err error) {
	blob, ok := blobType(o.arg)
	if !ok {
		return unknownType(s, o.arg)
	}
	f, err := os.OpenFile(o.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return cli.Complain("Could not open file '%s' for writing: %s", o.file, cli.Strerror(err))
	}
	b, _, err := c.State(blob, true)
	if r, ok := errors.AsType[tpm.Result](err); ok && r&tpm.Retry != 0 {
		b, err = nil, nil
	}
	if err != nil {
		f.Close()
		return step{name: "GET_STATEBLOB", call: "ioctl PTM_GET_STATEBLOB"}.explain(err)
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	if err = errors.Join(err, f.Close()); err != nil {
		return cli.Complain("Could not write to file '%s': %s", o.file, cli.Strerror(err))
	}
	return nil
}

// maxBlob is larger than any state blob, in bytes.
const maxBlob = 8 << 20

// load sends the state blob in a file to the TPM.
func load(s *cli.Streams, c *ctrl.Client, o *options) error {
	blob, ok := blobType(o.arg)
	if !ok {
		return unknownType(s, o.arg)
	}
	b, err := safefile.ReadInput(o.file, maxBlob)
	if err != nil {
		return cli.Complain("Could not open file '%s' for reading: %s", o.file, cli.Strerror(err))
	}
	return step{name: "SET_STATEBLOB", call: "ioctl PTM_SET_STATEBLOB"}.explain(c.SetState(blob, 0, b))
}

// unknownType prints a message about an unknown type.
//
// Compat: C-258: this is the only message without a newline.
func unknownType(s *cli.Streams, name string) error {
	fmt.Fprint(s.Err, program.PrintableLine(fmt.Sprintf("Unknown TPM state type '%s'", name)))
	return cli.Complain("")
}
