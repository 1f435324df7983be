package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A servedLab is `lab serve`, running.
type servedLab struct {
	t      *testing.T
	dir    string
	lines  *bufio.Scanner
	output strings.Builder // so far
	cancel context.CancelFunc
	ended  chan error
	ports  map[string]string // where hosts listen
	dns    string
}

// startServe starts `lab serve` and returns when it serves.
func startServe(t *testing.T, f serveFlags) *servedLab {
	t.Helper()
	s := &servedLab{t: t, dir: shortTemp(t), ended: make(chan error, 1), ports: map[string]string{}}
	f.ca, f.report = filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "report.json")
	if f.dns == "" {
		f.dns = "127.0.0.1:0"
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s.cancel = cancel
	r, w := io.Pipe()
	go func() {
		err := serveLab(ctx, printer{w: w, width: plainWidth}, f)
		s.ended <- err
		w.CloseWithError(io.EOF)
	}()
	s.lines = bufio.NewScanner(r)
	s.until("Ctrl-C ends it")
	for _, m := range regexp.MustCompile(`(?m)^  (\S+) +127\.\S+:(?:25|443) +-> (\S+)$`).FindAllStringSubmatch(s.output.String(), -1) {
		s.ports[m[1]] = m[2]
	}
	s.dns = regexp.MustCompile(`ask this DNS server +(\S+)`).FindStringSubmatch(s.output.String())[1]
	return s
}

// until reads the output up to a line with a text.
func (s *servedLab) until(text string) {
	s.t.Helper()
	for s.lines.Scan() {
		s.output.WriteString(s.lines.Text() + "\n")
		if strings.Contains(s.lines.Text(), text) {
			return
		}
	}
	s.t.Fatalf("it does not say %q but ends with %v:\n%s", text, <-s.ended, s.output.String())
}

// end interrupts it, and returns its exit code and what it found.
func (s *servedLab) end() (code int, found map[string]servedDomain) {
	s.t.Helper()
	s.cancel()
	for s.lines.Scan() {
		s.output.WriteString(s.lines.Text() + "\n")
	}
	if err := <-s.ended; err != nil {
		code, _ = exitOf(s.t.Context(), err, true)
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "report.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var r servedReport
	if err := json.Unmarshal(data, &r); err != nil {
		s.t.Fatal(err)
	}
	found = map[string]servedDomain{}
	for _, d := range r.Domains {
		found[d.Domain] = d
	}
	return code, found
}

// A servedSender delivers by MX records; a careful one obeys policies.
type servedSender struct {
	lab     *servedLab
	careful bool
	roots   *x509.CertPool
}

func newServedSender(s *servedLab, careful bool) *servedSender {
	pem, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		s.t.Fatal("ca.pem holds no certificate")
	}
	return &servedSender{s, careful, roots}
}

// deliver returns why a message was not delivered.
func (c *servedSender) deliver(domain string) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.lab.dns)
	}}
	mx, err := resolver.LookupMX(c.lab.t.Context(), domain+".")
	if err != nil {
		return err
	}
	host := strings.TrimSuffix(mx[0].Host, ".")
	policy := ""
	if txt, _ := resolver.LookupTXT(c.lab.t.Context(), "_mta-sts."+domain+"."); c.careful && len(txt) == 1 {
		if policy, err = c.policy("mta-sts." + domain); err != nil {
			return err
		}
		if !strings.Contains(policy, "mx: "+host+"\n") {
			return fmt.Errorf("the policy does not name %s", host)
		}
	}
	conn, err := smtp.Dial(c.lab.ports[host])
	if err != nil {
		return err
	}
	defer conn.Close()
	offered, _ := conn.Extension("STARTTLS")
	if policy != "" && !offered {
		return fmt.Errorf("%s has no STARTTLS", host)
	}
	if offered {
		if err := conn.StartTLS(&tls.Config{ServerName: host, RootCAs: c.roots, InsecureSkipVerify: policy == ""}); err != nil {
			return err
		}
	}
	return c.send(conn, "someone@"+domain)
}

func (c *servedSender) send(conn *smtp.Client, to string) error {
	if err := conn.Mail("test@" + labSender); err != nil {
		return err
	}
	if err := conn.Rcpt(to); err != nil {
		return err
	}
	w, err := conn.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, "Subject: x\r\n\r\nx\r\n"); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return conn.Quit()
}

func (c *servedSender) policy(host string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: c.roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, c.lab.ports[host])
		},
	}}
	resp, err := client.Get("https://" + host + "/.well-known/mta-sts.txt")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

var servedTests = []string{"ok.test", "wrong-name.test", "unlisted-mx.test", "no-starttls.test", "no-policy-plaintext.test"}

func TestLabServeJudgesASenderThatEnforcesAsRight(t *testing.T) {
	s := startServe(t, serveFlags{domains: append([]string{"null-mx.test", "stale.test"}, servedTests...)})
	c := newServedSender(s, true)
	for domain, delivered := range map[string]bool{"ok.test": true, "no-policy-plaintext.test": true, "wrong-name.test": false, "unlisted-mx.test": false, "no-starttls.test": false} {
		if err := c.deliver(domain); (err == nil) != delivered {
			t.Errorf("%s: %v", domain, err)
		}
	}
	s.until("mx.wrong-name.test: connected, STARTTLS, SNI mx.wrong-name.test, no TLS (")
	code, found := s.end()
	if code != 0 {
		t.Errorf("it ends with %d:\n%s", code, s.output.String())
	}
	for _, domain := range servedTests {
		if d := found[domain]; !d.Tried || !d.Right || d.Verdict != asItMust {
			t.Errorf("%s: %+v", domain, d)
		}
	}
	if d := found["ok.test"]; d.Fetches != 1 || !slices.Equal(d.Asked, []string{"MX", "MTA-STS TXT"}) || len(d.Sessions) != 1 || d.Sessions[0].SNI != "mx.ok.test" || d.Sessions[0].Messages != 1 {
		t.Errorf("ok.test: %+v", d)
	}
	if d := found["null-mx.test"]; d.Tried || d.Right || d.Verdict != notTried {
		t.Errorf("null-mx.test: %+v", d)
	}
	for _, text := range []string{"Left out (needs a first message and a change after it): stale.test", "mta-sts.ok.test: fetched the policy",
		"mx.ok.test: took a message to someone@ok.test, over TLS", "NOT on ports 25 and 443", "5 of 6 domains tried: 5 as an enforcing sender must, 0 not"} {
		if !strings.Contains(s.output.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, s.output.String())
		}
	}
}

func TestLabServeJudgesASenderThatDoesNotEnforceAsWrong(t *testing.T) {
	s := startServe(t, serveFlags{domains: append([]string{"greylist.test"}, servedTests...)})
	c := newServedSender(s, false)
	for _, domain := range servedTests {
		if err := c.deliver(domain); err != nil {
			t.Errorf("%s: %v", domain, err)
		}
	}
	if err := c.deliver("greylist.test"); err == nil {
		t.Error("greylist.test takes a message at once")
	}
	code, found := s.end()
	if code != exitBad {
		t.Errorf("it ends with %d:\n%s", code, s.output.String())
	}
	for domain, verdict := range map[string]string{
		"ok.test": asItMust, "no-policy-plaintext.test": asItMust, "greylist.test": asItMust,
		"wrong-name.test":  "NOT: delivered over TLS although: the certificate is for another name",
		"unlisted-mx.test": "NOT: delivered over TLS although: the policy does not name the MX host",
		"no-starttls.test": "NOT: delivered in the clear although: an enforce policy, and no STARTTLS",
	} {
		if d := found[domain]; d.Verdict != verdict || d.Right != (verdict == asItMust) {
			t.Errorf("%s: %+v", domain, d)
		}
	}
	if !strings.Contains(s.output.String(), "✗ 6 of 6 domains tried: 3 as an enforcing sender must, 3 not") {
		t.Errorf("the summary is missing:\n%s", s.output.String())
	}
}

// TestLabServeSeesWhatIsNotDelivered: who only asks for the MX record of a
// domain that must get mail has not done what it must.
func TestLabServeSeesWhatIsNotDelivered(t *testing.T) {
	s := startServe(t, serveFlags{domains: []string{"ok.test"}})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.dns)
	}}
	if _, err := resolver.LookupMX(t.Context(), "ok.test."); err != nil {
		t.Fatal(err)
	}
	code, found := s.end()
	if d := found["ok.test"]; code != exitBad || d.Verdict != "NOT: it must be delivered, and MX hosts took the message 0 times" {
		t.Errorf("it ends with %d: %+v", code, d)
	}
}

func TestLabServeEndsByItselfAndSaysThatNothingWasTried(t *testing.T) {
	dir := shortTemp(t)
	code, out, errs := runIn(t, "lab", "serve", "--dns", "127.0.0.1:0", "--ca", filepath.Join(dir, "ca.pem"), "--domains", "ok.test,null-mx", "--for", "10ms")
	if code != exitUnknown || errs != "" || lastLine(out) != "✗ 0 of 2 domains tried: 0 as an enforcing sender must, 0 not" {
		t.Errorf("it ends with %d:\n%s%s", code, errs, out)
	}
	for _, args := range [][]string{{"--domains", "stale.test"}, {"--domains", "nowhere.test"}} {
		code, _, errs := runIn(t, append([]string{"lab", "serve", "--ca", filepath.Join(dir, "ca.pem")}, args...)...)
		if code != exitUsage || !strings.Contains(errs, args[1][:5]) {
			t.Errorf("%v ends with %d: %s", args, code, errs)
		}
	}
}
