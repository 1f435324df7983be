package lab_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"stsrelay/internal/lab"
)

// A sender is a small sender with MTA-STS and DANE that shares no code with the relay and
// none with the lab. It is there to show that the scenarios hold what their
// expectations say.
type sender struct {
	t     *testing.T
	w     *lab.World
	cache map[string]rules // by domain
}

// rules are a parsed policy.
type rules struct {
	id, mode string
	mx       []string
}

func (r rules) names(host string) bool {
	return slices.ContainsFunc(r.mx, func(p string) bool {
		if suffix, wild := strings.CutPrefix(p, "*."); wild {
			_, parent, _ := strings.Cut(host, ".")
			return parent == suffix
		}
		return p == host
	})
}

func no(outcome, reason string) lab.Expect { return lab.Expect{Outcome: outcome, Reason: reason} }

// send makes one attempt to send a message to someone at domain.
func (s *sender) send(domain string, mail lab.Mail) lab.Expect {
	policy, fail := s.policy(domain)
	m := ask(s.t, s.w, "udp", domain+".", "MX")
	switch {
	case m.Rcode == dns.RcodeNameError:
		return no(lab.Bounced, "no-such-domain")
	case bogus(m):
		return no(lab.Deferred, "dnssec-bogus")
	case m.Rcode != dns.RcodeSuccess:
		return no(lab.Deferred, "dns-failed")
	case fail:
		return no(lab.Deferred, "sts-discovery-failed")
	}
	var list []*dns.MX
	for _, rr := range m.Answer {
		list = append(list, rr.(*dns.MX))
	}
	slices.SortFunc(list, func(a, b *dns.MX) int { return cmp.Compare(a.Preference, b.Preference) })
	if list == nil {
		list = []*dns.MX{{Mx: domain + "."}}
	}
	if list[0].Mx == "." {
		return no(lab.Bounced, "null-mx")
	}
	var last lab.Expect
	for _, mx := range list {
		host := strings.TrimSuffix(mx.Mx, ".")
		enforce := policy.mode == "enforce" && !mail.TLSRequiredNo
		if enforce && !policy.names(host) {
			last = no(lab.Deferred, "mx-not-listed")
			continue
		}
		last = s.host(domain, demand{host: host, sni: host, mail: mail, enforce: enforce, signed: m.AuthenticatedData,
			vouched: policy.mode != "" && policy.mode != "none" && policy.names(host)})
		if last.Outcome == lab.Delivered || last.Outcome == lab.Bounced && !mail.RequireTLS {
			if len(list) > 1 || host == "new."+domain {
				last.Via = host
			}
			return last
		}
	}
	return last
}

// policy finds the policy that rules. It fails when there may be one.
func (s *sender) policy(domain string) (p rules, fail bool) {
	m := ask(s.t, s.w, "udp", "_mta-sts."+domain+".", "TXT")
	if m.Rcode == dns.RcodeServerFailure {
		p, ok := s.cache[domain]
		return p, !ok
	}
	var ids []string
	for _, rr := range m.Answer {
		if text := strings.Join(rr.(*dns.TXT).Txt, ""); strings.HasPrefix(text, "v=STSv1;") {
			_, id, _ := strings.Cut(text, "id=")
			ids = append(ids, strings.TrimSuffix(id, ";"))
		}
	}
	if len(ids) != 1 || ids[0] == "" || s.cache[domain].id == ids[0] {
		return s.cache[domain], false
	}
	r, body, err := fetch(s.t, s.w, domain)
	if err != nil || r.StatusCode != http.StatusOK || len(body) > 64<<10 {
		return s.cache[domain], false
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "text/plain" {
		return s.cache[domain], false
	}
	p.id = ids[0]
	valid := false
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "version":
			valid = value == "STSv1"
		case "mode":
			p.mode = value
		case "mx":
			p.mx = append(p.mx, value)
		}
	}
	if !valid {
		return s.cache[domain], false
	}
	s.cache[domain] = p
	return p, false
}

// A demand is what one MX host must show, and what is known of its name.
type demand struct {
	host, sni string
	mail      lab.Mail
	enforce   bool // a policy must be met
	vouched   bool // a policy names the host
	signed    bool // DNSSEC names it
	dane
}

// host tries one MX host.
func (s *sender) host(domain string, want demand) lab.Expect {
	var ip net.IP
	m := ask(s.t, s.w, "udp", want.host+".", "A")
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			ip = a.A
		}
	}
	switch {
	case ip == nil:
		return no(lab.Bounced, "no-address")
	case !ip.IsLoopback():
		return no(lab.Deferred, "forbidden-address")
	}
	if want.mail.RequireTLS && !(want.enforce && want.vouched) && !want.signed {
		return no(lab.Bounced, "requiretls-unsupported")
	}
	var fail string
	if want.dane, fail = s.lookup(m, domain, want); fail != "" {
		return no(lab.Deferred, fail)
	}
	if want.base != "" {
		want.sni = want.base
	}
	to := net.JoinHostPort(ip.String(), "25")
	got, redial := s.talk(to, domain, want, true)
	if redial {
		got, _ = s.talk(to, domain, want, false)
	}
	return got
}

// A dialogue is a connection on which everything is said once.
type dialogue struct {
	conn net.Conn
	in   *bufio.Reader
	err  error
}

func (d *dialogue) read() (reply string) {
	for d.err == nil {
		var l string
		if l, d.err = d.in.ReadString('\n'); d.err == nil {
			reply += strings.TrimRight(l, "\r\n") + "\n"
			if len(l) < 4 || l[3] != '-' {
				return reply
			}
		}
	}
	return ""
}

func (d *dialogue) ask(line string) string {
	if d.err == nil {
		_, d.err = io.WriteString(d.conn, line+"\r\n")
	}
	return d.read()
}

// talk makes one connection. It wants another one, in the clear, where TLS
// broke and nobody needs it.
func (s *sender) talk(to, domain string, want demand, secure bool) (e lab.Expect, redial bool) {
	mandatory, from := want.enforce || want.base != "", "MAIL FROM:<someone@sender.test>"
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, err := s.w.Dialer().DialContext(ctx, "tcp", to)
	if err != nil {
		return no(lab.Deferred, "connect-failed"), false
	}
	defer func() { conn.Close() }()
	conn.SetDeadline(time.Now().Add(patience))
	d := &dialogue{conn: conn, in: bufio.NewReader(conn)}
	if r := d.read(); !strings.HasPrefix(r, "220") {
		return s.refused(d, r), false
	}
	ehlo := d.ask("EHLO sender.test")
	level := lab.Plaintext
	switch offered := strings.Contains(strings.ToUpper(ehlo), "\n250-STARTTLS\n") || strings.Contains(strings.ToUpper(ehlo), "\n250 STARTTLS\n"); {
	case !secure:
	case !offered && want.mail.RequireTLS && !mandatory:
		return no(lab.Bounced, "requiretls-without-tls"), false
	case !offered && mandatory:
		return no(lab.Deferred, "starttls-missing"), false
	case offered:
		r := d.ask("STARTTLS")
		if d.err == nil && !strings.HasPrefix(r, "220") {
			if mandatory {
				return no(lab.Deferred, "starttls-missing"), false
			}
			break
		}
		var fault string
		if level, fault = s.encrypt(d, want); fault != "" {
			return no(lab.Deferred, fault), !mandatory && !want.mail.RequireTLS
		}
		conn = d.conn
		ehlo = d.ask("EHLO sender.test")
	}
	if want.mail.RequireTLS {
		if from += " REQUIRETLS"; level == lab.Plaintext || !strings.Contains(ehlo, " REQUIRETLS\n") && !strings.Contains(ehlo, "-REQUIRETLS\n") {
			return no(lab.Bounced, "requiretls-unsupported"), false
		}
	}
	if !strings.HasPrefix(ehlo, "250") && !strings.HasPrefix(d.ask("HELO sender.test"), "250") {
		return s.refused(d, ehlo), false
	}
	for _, line := range []string{from, "RCPT TO:<someone@" + domain + ">", "DATA", "Subject: x\r\n\r\nx\r\n."} {
		if r := d.ask(line); !strings.HasPrefix(r, "250") && !strings.HasPrefix(r, "354") {
			return s.refused(d, r), false
		}
	}
	d.ask("QUIT")
	return lab.Expect{Outcome: lab.Delivered, TLS: level}, false
}

// encrypt sets up TLS and says how far it is to be trusted, or why it will not
// do.
func (s *sender) encrypt(d *dialogue, want demand) (level, fault string) {
	if d.err != nil || d.in.Buffered() > 0 {
		return "", "tls-failed"
	}
	conn := tls.Client(d.conn, &tls.Config{ServerName: want.sni, InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		return "", "tls-failed"
	}
	d.conn, d.in = conn, bufio.NewReader(conn)
	certs := conn.ConnectionState().PeerCertificates
	matched := want.matches(certs)
	wrong := s.wrong(certs, want.host)
	switch {
	case len(want.usable) > 0 && !matched:
		return "", "dane-mismatch"
	case wrong != "" && (want.enforce || want.mail.RequireTLS && !matched):
		return "", wrong
	case wrong != "" && !matched:
		return lab.Untrusted, ""
	case want.vouched && wrong == "", want.mail.RequireTLS, matched && want.signed: // its name was found good before
		return lab.Verified, ""
	}
	return lab.Trusted, ""
}

// wrong is what the authorities find wrong with a certificate.
func (s *sender) wrong(certs []*x509.Certificate, host string) string {
	o := x509.VerifyOptions{Roots: s.w.Roots(), Intermediates: x509.NewCertPool(), DNSName: host}
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(o)
	switch {
	case err == nil:
		return ""
	case errors.As(err, new(x509.HostnameError)):
		return "certificate-host-mismatch"
	case time.Now().After(certs[0].NotAfter):
		return "certificate-expired"
	}
	return "certificate-not-trusted"
}

// refused says what a reply, or the lack of one, comes to.
func (s *sender) refused(d *dialogue, reply string) lab.Expect {
	switch {
	case d.err != nil:
		return no(lab.Deferred, "connection-lost")
	case strings.HasPrefix(reply, "5"):
		return no(lab.Bounced, "remote-reply")
	}
	return no(lab.Deferred, "remote-reply")
}
