package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/app"

	"github.com/spf13/cobra"
)

// A sendJob is what `send` was asked to do.
type sendJob struct {
	checkJob
	from, to, body, hostname string
	require, ignore, quiet   bool
}

func newSend(g *globals) *cobra.Command {
	var j sendJob
	cmd := &cobra.Command{
		Use: "send --to ADDRESS", Short: "Send one message without a daemon, and show what was said",
		Long: `Send one message without a daemon, by the code that sends, and show what was said. MTA-STS, DANE and
REQUIRETLS are heeded as the daemon heeds them. Nothing is queued: one attempt, and its outcome.

Exit codes: 0 the server took it; 1 it was refused, by the server or by a rule; 3 a temporary fault.`,
		Example: `  stsrelay send --to you@example.com
  stsrelay send --to you@example.com --policy mta-sts.txt --as enforce < message.eml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return j.run(cmd, g) },
	}
	f := cmd.Flags()
	f.StringVar(&j.to, "to", "", "recipient `ADDRESS`")
	f.StringVar(&j.from, "from", "", "sender `ADDRESS` (default: the null sender)")
	f.StringVar(&j.body, "message", "", "`FILE` with header and body, - for standard input (default: a short test message)")
	f.StringVar(&j.hostname, "helo", "", "`NAME` in EHLO (default: the literal of the local address)")
	f.BoolVar(&j.require, "requiretls", false, "ask for REQUIRETLS (RFC 8689)")
	f.BoolVar(&j.ignore, "tls-required-no", false, "lift MTA-STS and DANE for this message (RFC 8689)")
	f.BoolVarP(&j.quiet, "quiet", "q", false, "show the outcome only")
	j.trialFlags(f)
	return cmd
}

func (j sendJob) run(cmd *cobra.Command, g *globals) error {
	job, domain, err := j.job(cmd.InOrStdin())
	if err != nil {
		return err
	}
	j.format = "text"
	o, err := j.options(g, []addr.Domain{domain})
	if err != nil {
		return err
	}
	o.Hostname = j.hostname
	p := g.printer(cmd.OutOrStdout())
	if !j.quiet && !g.json {
		o.Trace = newWiretap(p).hear
	}
	client, end, err := app.NewTrySender(cmd.Context(), o)
	if err != nil {
		return err
	}
	s := &oneJob{job: job}
	failed := client.Deliver(cmd.Context(), delivery.Destination{NextHop: addr.DomainHop(domain)}, s)
	if err := errors.Join(cmd.Context().Err(), end()); err != nil {
		return err
	}
	if s.out == nil {
		return failed
	}
	return j.tell(p, g.json, s.out.Outcomes[0])
}

// job makes the message.
func (j sendJob) job(stdin io.Reader) (job delivery.Job, domain addr.Domain, err error) {
	to, err := addr.ParseAddress(j.to)
	if err != nil {
		return job, domain, usagef("--to: %w", err)
	}
	domain, ok := to.Domain()
	if !ok {
		return job, domain, usagef("--to: %s has no domain whose mail servers could be looked up", j.to)
	}
	job = delivery.Job{ID: "send", To: []delivery.Recipient{{Address: to}}}
	if j.from != "" {
		if job.From, err = addr.ParseAddress(j.from); err != nil {
			return job, domain, usagef("--from: %w", err)
		}
	}
	switch {
	case j.require && j.ignore:
		return job, domain, usagef("--requiretls and --tls-required-no contradict each other")
	case j.require:
		job.Demand = delivery.Require
	case j.ignore:
		job.Demand = delivery.Ignore
	}
	text, err := j.text(stdin, job)
	if err != nil {
		return job, domain, err
	}
	job.Size = int64(len(text))
	job.Body8 = bytes.ContainsFunc(text, func(r rune) bool { return r > 0x7f })
	job.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	return job, domain, nil
}

// maxSend bounds a message that is sent by hand, in octets.
const maxSend = 50 << 20

// text is the content with CRLF line ends.
func (j sendJob) text(stdin io.Reader, job delivery.Job) ([]byte, error) {
	if j.body == "" {
		field := ""
		if j.ignore {
			field = "TLS-Required: No\r\n"
		}
		from := "postmaster@localhost.invalid"
		if !job.From.IsNull() {
			from = job.From.Wire()
		}
		return fmt.Appendf(nil, "From: <%s>\r\nTo: <%s>\r\nSubject: a test by stsrelay send\r\nDate: %s\r\nMessage-ID: <%d.stsrelay-send@localhost.invalid>\r\n%s\r\nThis is a test of TLS between mail servers. No answer is needed.\r\n",
			from, job.To[0].Address.Wire(), time.Now().Format("Mon, 02 Jan 2006 15:04:05 -0700"), time.Now().UnixNano(), field), nil
	}
	b, err := readInput(stdin, j.body, maxSend)
	return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n")), err
}

// A oneJob is a Source of one message.
type oneJob struct {
	job   delivery.Job
	drawn bool
	out   *delivery.Attempt
}

func (s *oneJob) Next(context.Context) (delivery.Job, bool) {
	if s.drawn {
		return delivery.Job{}, false
	}
	s.drawn = true
	return s.job, true
}

func (s *oneJob) Done(_ delivery.Job, a delivery.Attempt) { s.out = &a }

// tell shows the outcome and ends with its code.
func (j sendJob) tell(p printer, asJSON bool, o delivery.Outcome) error {
	status := "delivered"
	var code error
	if e := o.Err; e != nil {
		status, code = "deferred", exitError{exitUnknown, nil}
		if e.Permanent || e.Reason.Info().Expired != [3]int{} { // by a rule, which time alone does not mend
			code = exitError{exitBad, nil}
		}
		if e.Permanent {
			status = "refused"
		}
	}
	if asJSON {
		doc := map[string]any{"schema": "stsrelay.send/v1", "to": j.to, "status": status, "mx": o.MX.String(), "tls": o.TLS, "policy": o.Policy, "reply": o.Reply}
		if e := o.Err; e != nil {
			doc["reason"], doc["text"], doc["dsn"], doc["rfc"] = string(e.Reason), e.Text, fmt.Sprintf("%d.%d.%d", e.Enhanced[0], e.Enhanced[1], e.Enhanced[2]), e.RFC
		}
		return errors.Join(json.NewEncoder(p.w).Encode(doc), code)
	}
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(p.w, " %-8s %s\n", name, printable(text))
		}
	}
	fmt.Fprintf(p.w, "%s %s: %s\n", p.mark(o.Err == nil), printable(j.to), status)
	line("Server", strings.TrimSpace(o.MX.String()+" "+at(o.Addr)))
	line("TLS", o.TLS)
	line("Policy", o.Policy)
	if o.Err == nil {
		line("Reply", o.Reply)
		return nil
	}
	line("Reason", string(o.Err.Reason)+": "+o.Err.Text)
	line("Rule", o.Err.RFC)
	line("Fix", o.Err.Reason.Info().Owner)
	return code
}

func at(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return "[" + a.Addr().String() + "]"
}
