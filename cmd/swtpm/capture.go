package main

import (
	"github.com/swtpm-go/swtpm/internal/capture"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
)

// openCapture opens the recording that --pcap names. Without the option the recorder is
// nil. stop is never nil.
func openCapture(cfg *config.Config, log *daemon.Log) (r emul.TrafficRecorder, stop func(), err error) {
	p := cfg.Pcap
	if p.File == "" && p.FD < 0 {
		return nil, func() {}, nil
	}
	o := capture.Options{
		File:      p.File,
		FD:        p.FD,
		Mode:      p.Mode,
		Truncate:  p.Truncate,
		Checksums: p.Checksums,
		Note:      log.Warnf,
	}
	if p.Redact {
		o.Filter = capture.NewRedactor(cfg.TPM)
	}
	c, err := capture.Open(o)
	if err != nil {
		return nil, func() {}, doctor.AppendRemedy(err, doctor.Output(err))
	}
	return c, c.Close, nil
}
