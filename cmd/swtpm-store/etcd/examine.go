package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

const (
	// expirySoon is how long before the end of its validity a certificate is reported.
	expirySoon = 14 * 24 * time.Hour

	// clockTolerance is the smallest difference of two clocks that is reported. It does not
	// matter for leases, only for the validity of certificates.
	clockTolerance = 30 * time.Second
)

// Examine implements driver.Examiner: it asks each member, and reads the dates of all
// certificates.
func (s *Store) Examine(ctx context.Context) []driver.Finding {
	found := s.ownCertificate()
	members := make([][]driver.Finding, len(s.options.Endpoints))
	var tasks sync.WaitGroup
	identities := make([]identity, len(members))
	for i, url := range s.options.Endpoints {
		tasks.Go(func() { members[i], identities[i] = s.examineMember(ctx, url) })
	}
	tasks.Wait()
	if text, _ := s.split(ctx, identities); text != "" {
		found = append(found, driver.Finding{Problem: driver.Split, Text: text})
	}
	down := 0
	for _, m := range members {
		found = append(found, m...)
		if slices.ContainsFunc(m, func(f driver.Finding) bool {
			return f.Problem == driver.Unreachable || f.Problem == driver.Certificate && !f.Warning
		}) {
			down++
		}
	}
	if n := len(members); n > 0 && 2*down >= n+n%2 {
		found = append(found, driver.Finding{Problem: driver.Quorum, Text: fmt.Sprintf("%d of %d members do not answer: there is no majority that could store", down, n)})
	} else {
		if err := s.mayWrite(ctx); errors.Is(err, driver.ErrDenied) {
			found = append(found, driver.Finding{Problem: driver.Denied, Text: err.Error()})
		}
		for i := range found { // TPMs use the other members
			found[i].Warning = found[i].Warning || found[i].Problem == driver.Unreachable
		}
	}
	return found
}

// mayWrite asks for the right to read and write below the prefix, with a transaction whose condition
// never holds: etcd checks the rights of both branches first. It changes nothing.
func (s *Store) mayWrite(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.times.probe)
	defer cancel()
	if err := s.ready(ctx); err != nil {
		return err
	}
	key := s.prefix + "position"
	_, err := s.client.Txn(leading(ctx)).If(clientv3.Compare(clientv3.CreateRevision(key), "<", 0)).
		Then(clientv3.OpPut(key, "")).Else(clientv3.OpGet(key, clientv3.WithKeysOnly())).Commit()
	return classify(err, driver.ErrUnreachable)
}

// ownCertificate reports a client certificate that expired or will soon.
func (s *Store) ownCertificate() []driver.Finding {
	t := s.options.TLS
	if t == nil || t.GetClientCertificate == nil {
		return nil
	}
	pair, err := t.GetClientCertificate(nil)
	if err != nil {
		return []driver.Finding{{Problem: driver.Certificate, Text: fmt.Sprintf("certificate of this host: %v", err)}}
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return []driver.Finding{{Problem: driver.Certificate, Text: fmt.Sprintf("certificate of this host: %v", err)}}
	}
	return validity("certificate of this host", c)
}

// validity reports a certificate that is not valid now, or not for long.
func validity(whose string, c *x509.Certificate) []driver.Finding {
	now, day := time.Now(), "2006-01-02 15:04 MST"
	switch {
	case now.After(c.NotAfter):
		return []driver.Finding{{Problem: driver.Certificate, Text: fmt.Sprintf("%s expired at %s", whose, c.NotAfter.UTC().Format(day))}}
	case now.Before(c.NotBefore):
		return []driver.Finding{{Problem: driver.Certificate, Text: fmt.Sprintf("%s is valid from %s on; the clock of this host says %s", whose, c.NotBefore.UTC().Format(day), now.UTC().Format(day))}}
	case now.Add(expirySoon).After(c.NotAfter):
		return []driver.Finding{{Problem: driver.Certificate, Warning: true, Text: fmt.Sprintf("%s expires at %s", whose, c.NotAfter.UTC().Format(day))}}
	}
	return nil
}

// examineMember asks one member for its version, which shows certificates and clocks, and for its
// status.
func (s *Store) examineMember(ctx context.Context, url string) (found []driver.Finding, who identity) {
	date, certs, err := s.probe(ctx, url)
	if err != nil {
		return []driver.Finding{{Problem: problemOf(err), Text: url + ": " + err.Error()}}, who
	}
	if len(certs) > 0 {
		found = validity("certificate of "+url, certs[0])
	}
	if apart := time.Since(date).Abs(); !date.IsZero() && apart > clockTolerance {
		found = append(found, driver.Finding{Problem: driver.Clock, Warning: true,
			Text: fmt.Sprintf("the time of %s is %s, that of this host %s", url, date.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))})
	}
	ctx, cancel := context.WithTimeout(ctx, s.times.probe)
	defer cancel()
	status, err := s.client.Status(ctx, url)
	if err != nil {
		problem := driver.Unreachable
		if errors.Is(meaning(err, driver.ErrUnreachable), driver.ErrDenied) {
			problem = driver.Denied
		}
		return append(found, driver.Finding{Problem: problem, Text: fmt.Sprintf("%s: status: %v", url, err)}), who
	}
	return append(found, faults(url, status)...), identityOf(url, status)
}

// faults returns the faults that a member reports in its status.
func faults(url string, status *clientv3.StatusResponse) (found []driver.Finding) {
	if status.Leader == 0 {
		found = append(found, driver.Finding{Problem: driver.Quorum, Text: url + ": this member has no leader: it reaches no majority of the members"})
	}
	for _, text := range status.Errors {
		switch {
		case strings.Contains(text, "NOSPACE"):
			found = append(found, driver.Finding{Problem: driver.Quota, Text: fmt.Sprintf("%s: the database is full, %d MiB (alarm NOSPACE)", url, status.DbSize>>20)})
		case strings.Contains(text, "CORRUPT"):
			found = append(found, driver.Finding{Problem: driver.Damaged, Text: url + ": the database of a member is damaged (alarm CORRUPT)"})
		}
	}
	return found
}

// problemOf returns the kind of an error of probe.
func problemOf(err error) driver.Problem {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var alert tls.AlertError
	if errors.As(err, &invalid) || errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &alert) || strings.Contains(err.Error(), "tls: ") {
		return driver.Certificate
	}
	return driver.Unreachable
}

// probe asks a member for its version by HTTP. Unlike an error of the client library, its error
// names the reason for a failure of TLS. A member that refuses the certificate of this host says
// so only in reply to the request.
func (s *Store) probe(ctx context.Context, url string) (date time.Time, certs []*x509.Certificate, err error) {
	if strings.HasPrefix(url, "unix:") {
		return time.Time{}, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.times.probe)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: s.options.TLS.Clone(), DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/version", nil)
	if err != nil {
		return time.Time{}, nil, err
	}
	rsp, err := transport.RoundTrip(request)
	if err != nil {
		return time.Time{}, nil, explainTLS(err)
	}
	defer rsp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(rsp.Body, 4096))
	date, _ = http.ParseTime(rsp.Header.Get("Date"))
	if rsp.TLS != nil {
		certs = rsp.TLS.PeerCertificates
	}
	return date, certs, nil
}

// explainTLS adds the likely cause to an error of TLS.
func explainTLS(err error) error {
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	switch text := err.Error(); {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the member's certificate is not valid now: %w", err)
	case errors.As(err, &alert), strings.Contains(text, "remote error: tls: "):
		return fmt.Errorf("the member refuses the certificate of this host: %w", err)
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("tls: the member speaks HTTP, not HTTPS: %w", err)
	}
	return err
}
