package tlsrpt_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"

	"stsrelay/internal/lab"
	"stsrelay/relay"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// TestLabReports: what real servers did to real connections is what the report
// says, in testing mode as in enforce.
func TestLabReports(t *testing.T) {
	w := newTown(t, nil)
	c := w.AddCollector(lab.Collector{Host: "reports.test"})
	inTesting := func(domain string) { w.policy(domain, stscache.Testing) }
	enforced := func(domain string) { w.policy(domain, stscache.Enforce) }
	unnamed := func(mode stscache.Mode) func(domain string) {
		return func(domain string) { w.policy(domain, mode, "other."+domain) }
	}
	failing := func(err error) func(domain string) {
		return func(domain string) { w.set(domain, stscache.Status{Err: err}) }
	}
	abort := []lab.Rule{{On: lab.TLSStart, Then: lab.Hangup}}
	rows := []struct {
		domain, name string
		mx           lab.MX
		policy       func(domain string)
		delivered    bool
		want         string
	}{
		{"ok.test", "RPT-4.2-01 good TLS is a success", lab.MX{}, enforced, true, "sts 1+0"},
		{"t-ok.test", "RPT-4.2-01 good TLS is a success in testing", lab.MX{}, inTesting, true, "sts 1+0"},
		{"t-expired.test", "RPT-4.3-03 an expired certificate is no success, though delivered", lab.MX{Cert: lab.Expired}, inTesting, true, "sts 0+1 certificate-expired*1"},
		{"t-wrong.test", "RPT-4.3-02 nor is one for another name", lab.MX{Cert: lab.WrongName}, inTesting, true, "sts 0+1 certificate-host-mismatch*1"},
		{"t-self.test", "RPT-4.3-04 nor a self-signed one", lab.MX{Cert: lab.SelfSigned}, inTesting, true, "sts 0+1 certificate-not-trusted*1"},
		{"t-plain.test", "RPT-4.3-01 nor is no STARTTLS", lab.MX{NoStartTLS: true}, inTesting, true, "sts 0+1 starttls-not-supported*1"},
		{"t-abort.test", "RPT-4.3-05 X-08 nor a handshake that breaks off", lab.MX{Rules: abort}, inTesting, true, "sts 0+1 validation-failure*1"},
		{"t-unnamed.test", "RPT-4.3-13 nor an MX that the policy does not name", lab.MX{}, unnamed(stscache.Testing), true, "sts 0+1 validation-failure*1"},
		{"expired.test", "RPT-4.3-03 an expired certificate", lab.MX{Cert: lab.Expired}, enforced, false, "sts 0+1 certificate-expired*1"},
		{"wrong.test", "RPT-4.3-02 a certificate for another name", lab.MX{Cert: lab.WrongName}, enforced, false, "sts 0+1 certificate-host-mismatch*1"},
		{"self.test", "RPT-4.3-04 a self-signed certificate", lab.MX{Cert: lab.SelfSigned}, enforced, false, "sts 0+1 certificate-not-trusted*1"},
		{"plain.test", "RPT-4.3-01 no STARTTLS", lab.MX{NoStartTLS: true}, enforced, false, "sts 0+1 starttls-not-supported*1"},
		{"abort.test", "RPT-4.3-05 a handshake that breaks off", lab.MX{Rules: abort}, enforced, false, "sts 0+1 validation-failure*1"},
		{"unnamed.test", "RPT-4.3-13 an MX that the policy does not name", lab.MX{}, unnamed(stscache.Enforce), false, "sts 0+1 validation-failure*1"},
		{"none.test", "RPT-4.2-05 no policy: any TLS is a success", lab.MX{Cert: lab.SelfSigned}, func(string) {}, true, "no-policy-found 1+0"},
		{"none-plain.test", "RPT-4.2-05 and none is a failure", lab.MX{NoStartTLS: true}, func(string) {}, true, "no-policy-found 0+1 starttls-not-supported*1"},
		{"fetch.test", "RPT-4.3-09 a policy that cannot be fetched", lab.MX{}, failing(stscache.ErrFetch), true, "sts 0+1 sts-policy-fetch-error*1; no-policy-found 1+0"},
		{"syntax.test", "RPT-4.3-10 an invalid policy", lab.MX{}, failing(stscache.ErrPolicySyntax), true, "sts 0+1 sts-policy-invalid*1; no-policy-found 1+0"},
		{"webpki.test", "RPT-4.3-11 a policy server that is not authenticated", lab.MX{}, failing(stscache.ErrWebPKI), true, "sts 0+1 sts-webpki-invalid*1; no-policy-found 1+0"},
	}
	for _, row := range rows {
		row.mx.Name, row.mx.Domains = "mx."+row.domain, []string{row.domain}
		w.AddMX(row.mx)
		row.policy(row.domain)
		w.DNS.Add(fmt.Sprintf(`_smtp._tls.%s. 300 IN TXT "v=TLSRPTv1; rua=" "%s?%s"`, row.domain, c.URL(), row.domain))
		if got := w.mail(row.domain); got != row.delivered {
			t.Errorf("mail to %s: delivered %v", row.domain, got)
		}
	}
	jobs := w.sendNow()
	got, raw := map[string]report{}, map[string][]byte{}
	for _, r := range c.Requests() {
		_, domain, _ := strings.Cut(r.Path, "?")
		got[domain], raw[domain] = unpack(t, r.Body), r.Body
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if r := got[row.domain]; r.summary() != row.want || jobs[row.domain].State != tlsrpt.Sent || jobs[row.domain].ID != r.ID {
				t.Errorf("%s: report %q, want %q; %+v", row.domain, r.summary(), row.want, jobs[row.domain])
			}
		})
		t.Run("RPT-4-01 the report about "+row.domain+" is valid", func(t *testing.T) { tlsrpt.Valid(t, tlsrpt.Gunzip(t, raw[row.domain])) })
	}
	t.Run("RPT-3-09 the strings of a record are joined", func(t *testing.T) {
		if len(c.Requests()) != len(rows) {
			t.Errorf("%d reports for %d domains", len(c.Requests()), len(rows))
		}
	})
	t.Run("RPT-8-01 no local part and nothing of ours but the sending address is told", func(t *testing.T) {
		for domain, b := range raw {
			if j := tlsrpt.Gunzip(t, b); bytes.Contains(j, []byte("secret-user")) || bytes.Contains(j, []byte("someone@")) {
				t.Errorf("%s: %s", domain, j)
			}
		}
	})
	if left := w.tallied(); len(left) != 0 {
		t.Errorf("still tallied: %v", left)
	}
}

// fetchMail is the report mail that an MX host took.
func fetchMail(t *testing.T, m lab.Received) (mail.Header, report) {
	t.Helper()
	_, public := testKey(t)
	if tags, err := tlsrpt.VerifyDKIM(m.Content, map[string]string{keyName: public}); err != nil || len(tags) != 1 {
		t.Errorf("RPT-3-23 DKIM-5.3-01: %d signatures, %v", len(tags), err)
	}
	msg, err := mail.ReadMessage(bytes.NewReader(m.Content))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatalf("no report in the mail: %v", err)
		}
		if p.Header.Get("Content-Type") == "application/tlsrpt+gzip" {
			b, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
			if err != nil {
				t.Fatal(err)
			}
			return msg.Header, unpack(t, b)
		}
	}
}

// TestLabMail: the mailbox for reports is where TLS is broken, as it is when
// there is most to report.
func TestLabMail(t *testing.T) {
	w := newTown(t, nil)
	for _, row := range []struct {
		domain, name string
		mx           lab.MX
		tls          bool
	}{
		{"bad-cert.test", "RPT-3-20 RPT-3-21 RPT-3-22 an enforce policy and a bad certificate: delivered, over TLS, and not counted", lab.MX{Cert: lab.SelfSigned}, true},
		{"plain.test", "RPT-3-20 X-09 an enforce policy and no STARTTLS: delivered in the clear", lab.MX{NoStartTLS: true}, false},
		{"abort.test", "RPT-3-21 a handshake that breaks off: delivered in the clear", lab.MX{Rules: []lab.Rule{{On: lab.TLSStart, Then: lab.Hangup}}}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.mx.Name, row.mx.Domains = "mx."+row.domain, []string{row.domain}
			mx := w.AddMX(row.mx)
			w.policy(row.domain, stscache.Enforce)
			w.DNS.SetTXT("_smtp._tls."+row.domain, "v=TLSRPTv1; rua=mailto:reports@"+row.domain)
			if w.mail(row.domain) {
				t.Fatal("ordinary mail was delivered in spite of the policy")
			}
			job := w.sendNow()[row.domain]
			got := mx.Messages()
			if job.State != tlsrpt.Sent || len(got) != 1 || got[0].To[0] != "reports@"+row.domain || (got[0].TLS != nil) != row.tls {
				t.Fatalf("%+v, %d mails", job, len(got))
			}
			h, r := fetchMail(t, got[0])
			if r.ID != job.ID || r.Policies[0].Summary.Bad != 1 || h.Get("TLS-Required") != "No" || h.Get("TLS-Report-Domain") != row.domain {
				t.Errorf("%+v, %+v", h, r)
			}
			if got[0].From != "tls@"+sender {
				t.Errorf("from <%s>", got[0].From)
			}
			for _, line := range w.tallied() {
				t.Errorf("the session that carried the report is counted: %s", line)
			}
			if again := w.sendNow(); len(again) != 0 || len(mx.Messages()) != 1 {
				t.Errorf("a report caused another: %+v", again)
			}
		})
	}
	for _, row := range []struct {
		name, domain, want string
		set                func(domain string)
	}{
		{"RPT-5.3-09 RPT-5.5-02 a mailbox that refuses: no bounce, and the report says why", "refuses.test", "550 5.1.1 no such user", func(d string) {
			w.AddMX(lab.MX{Name: "mx." + d, Domains: []string{d}, Rules: []lab.Rule{{On: "RCPT", Reply: "550 5.1.1 no such user"}}})
		}},
		{"X-09 a null MX is respected", "null-mx.test", "null-mx", func(d string) { w.DNS.Add(d + ". 300 IN MX 0 .") }},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.set(row.domain)
			source := "from-" + row.domain
			w.AddMX(lab.MX{Name: "mx." + source, Domains: []string{source}})
			w.DNS.SetTXT("_smtp._tls."+source, "v=TLSRPTv1; rua=mailto:reports@"+row.domain)
			if !w.mail(source) {
				t.Fatal("not delivered")
			}
			job := w.sendNow()[source]
			if job.State != tlsrpt.Failed || !strings.Contains(job.Parts[0].Why, row.want) {
				t.Errorf("%+v", job)
			}
			list, _, err := w.store.List(t.Context(), relay.Filter{From: "<>"}, "", 10)
			if err != nil || len(list) != 0 {
				t.Errorf("bounces %+v, %v", list, err)
			}
			list, _, err = w.store.List(t.Context(), relay.Filter{To: "@" + row.domain}, "", 10)
			if err != nil || len(list) != 0 {
				t.Errorf("still queued %+v, %v", list, err)
			}
		})
	}
	t.Run("a mailbox that is busy: it waits in the queue for a day at most", func(t *testing.T) {
		mx := w.AddMX(lab.MX{Name: "mx.busy.test", Domains: []string{"busy.test"}})
		w.DNS.SetTXT("_smtp._tls.busy.test", "v=TLSRPTv1; rua=mailto:reports@busy.test")
		if !w.mail("busy.test") {
			t.Fatal("not delivered")
		}
		mx.Change(func(c *lab.MX) { c.Rules = []lab.Rule{{On: "RCPT", Reply: "450 4.2.0 greylisted"}} })
		job := w.sendNow()["busy.test"]
		list, _, err := w.store.List(t.Context(), relay.Filter{To: "reports@busy.test"}, "", 10)
		if err != nil || job.State != tlsrpt.Queued || !strings.Contains(job.Parts[0].Why, "greylisted") || len(list) != 1 || !list[0].Options.Report {
			t.Errorf("%+v, %+v, %v", job, list, err)
		}
	})
}

// TestLabHTTPS: an endpoint that fails and comes back, and two destinations of
// which one is down.
func TestLabHTTPS(t *testing.T) {
	w := newTown(t, nil)
	c := w.AddCollector(lab.Collector{Host: "reports.test", Domains: []string{"a.test"}, Status: 500})
	mx := w.AddMX(lab.MX{Name: "mx.a.test", Domains: []string{"a.test"}})
	w.DNS.SetTXT("_smtp._tls.a.test", "v=TLSRPTv1; rua="+c.URL()+",mailto:reports@a.test,https://10.0.0.1/")
	if !w.mail("a.test") {
		t.Fatal("not delivered")
	}
	job := w.sendNow()["a.test"]
	if job.State != tlsrpt.Pending || job.Parts[0].State != tlsrpt.Pending || job.Parts[1].State != tlsrpt.Sent || job.Parts[2].State != tlsrpt.Pending ||
		!strings.Contains(job.Parts[0].Why, "500") || !strings.Contains(job.Parts[2].Why, "private network") {
		t.Errorf("%+v", job)
	}
	c.Change(func(c *lab.Collector) { c.Status = 200 })
	job = w.sendNow()["a.test"]
	if job.Parts[0].State != tlsrpt.Sent || len(c.Requests()) != 2 || len(mx.Messages()) != 2 {
		t.Errorf("%+v, %d posts, %d mails", job, len(c.Requests()), len(mx.Messages()))
	}
	var first, second json.RawMessage = tlsrpt.Gunzip(t, c.Requests()[0].Body), tlsrpt.Gunzip(t, c.Requests()[1].Body)
	if !bytes.Equal(first, second) {
		t.Errorf("the report was sent as\n%s\nand then as\n%s", first, second)
	}
}
