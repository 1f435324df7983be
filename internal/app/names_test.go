package app

import (
	"fmt"
	"net/smtp"
	"net/textproto"
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

func TestListenerKeys(t *testing.T) {
	net := startLab(t)
	net.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}})
	net.DNS.Add("null.test. 300 IN MX 0 .")
	net.DNS.Add("odd.test. 300 IN MX 0 .")
	net.DNS.Add("odd.test. 300 IN MX 10 mx.example.test.")
	text := configText(shortDir(t), net, "")
	text = strings.Replace(text, "[network]", "strict_headers = true\ncheck_rcpt_dns = true\nhide_client = true\n[network]", 1)
	f := start(t, net, parse(t, text), nil)
	for _, tt := range []struct{ name, from, to, want string }{
		{"NMX-4.1-01 check_rcpt_dns", "a@sender.test", "b@null.test", `556 "5.1.10 `},
		{"NMX-4.1-02 check_rcpt_dns", "a@null.test", "b@example.test", `550 "5.7.27 `},
		{"a null MX among others is none", "a@sender.test", "b@odd.test", ""},
		{"a domain that does not exist is for the queue", "a@nowhere.test", "b@nowhere.test", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := smtp.Dial(f.address())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err = c.Mail(tt.from); err == nil {
				err = c.Rcpt(tt.to)
			}
			if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("UTF8-6532-01 strict_headers", func(t *testing.T) {
		// A client that does not know SMTPUTF8, unlike net/smtp.
		if got := f.say("MAIL FROM:<a@sender.test>", "RCPT TO:<b@example.test>", "DATA", "Subject: gr\xfcn\r\n\r\nx\r\n."); !strings.HasPrefix(got, "554 5.6.9 ") {
			t.Error(got)
		}
	})
	t.Run("SMTP-4.4-07 hide_client", func(t *testing.T) {
		f.send("a@sender.test", []string{"b@example.test"}, letter("names", 0))
		mx := net.MX("mx.example.test")
		if err := mx.WaitMessages(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if got := string(mx.Messages()[0].Content); !strings.HasPrefix(got, "Received: from unknown\r\n\tby relay.sender.test ") {
			t.Errorf("%.300q", got)
		}
	})
}

// say has a client say lines, each after the reply to the one before, and
// returns the last reply.
func (f *fixture) say(lines ...string) string {
	f.t.Helper()
	c, err := textproto.Dial("tcp", f.address())
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	code, text, err := c.ReadResponse(220)
	for _, line := range append([]string{"EHLO client.test"}, lines...) {
		if err != nil || code >= 400 {
			f.t.Fatalf("before %q: %d %s, %v", line, code, text, err)
		}
		if err = c.PrintfLine("%s", line); err == nil {
			code, text, err = c.ReadResponse(0)
		}
	}
	return fmt.Sprint(code, " ", text)
}

// What a client asks for is passed on only in the terms of the latest EHLO.
func TestSMTP_4_1_1_1_03_OnlyWhatIsOfferedIsUsed(t *testing.T) {
	for name, m := range map[string]lab.MX{
		"SMTP-4.1.1.1-03 nothing is offered":            {Extensions: []string{}},
		"SMTP-4.1.1.1-03 something is, but not in TLS":  {TLSExtensions: []string{}},
		"SMTP-4.1.1.1-03 something else is, inside TLS": {Extensions: []string{}, TLSExtensions: []string{"HELP"}},
	} {
		t.Run(name, func(t *testing.T) {
			net := startLab(t)
			m.Name, m.Domains = "mx.example.test", []string{"example.test"}
			mx := net.AddMX(m)
			f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
			f.say("MAIL FROM:<a@sender.test> SIZE=500 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x", "RCPT TO:<b@example.test> NOTIFY=FAILURE ORCPT=rfc822;b@example.test",
				"DATA", strings.TrimSuffix(letter("names", 0), "\r\n")+"\r\n.")
			if err := mx.WaitMessages(within(t), 1); err != nil {
				t.Fatal(err)
			}
			if got := mx.Messages()[0]; got.Mail != "MAIL FROM:<a@sender.test>" || len(got.Rcpts) != 1 || got.Rcpts[0] != "RCPT TO:<b@example.test>" {
				t.Errorf("%q, %q", got.Mail, got.Rcpts)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Run("UTF8-3.7.1-01 an internationalised host name is said in A-labels", func(t *testing.T) {
		net := startLab(t)
		mx := net.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}})
		text := strings.Replace(configText(shortDir(t), net, ""), `"relay.sender.test"`, `"bücher.sender.test"`, 1)
		f := start(t, net, parse(t, text), nil)
		f.send("a@sender.test", []string{"b@example.test"}, letter("names", 0))
		if err := mx.WaitMessages(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if got := mx.Messages()[0]; got.Helo != "xn--bcher-kva.sender.test" || !strings.Contains(string(got.Content), "\tby xn--bcher-kva.sender.test ") {
			t.Errorf("HELO %q, %.300q", got.Helo, got.Content)
		}
	})
	t.Run("UTF8-3.1-02 a client that always says SMTPUTF8 keeps no mail from servers that do not know it", func(t *testing.T) {
		net := startLab(t)
		mx := net.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}, Extensions: []string{"8BITMIME"}})
		f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
		f.send("a@sender.test", []string{"b@example.test"}, "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n") // net/smtp does
		if err := mx.WaitMessages(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if got := mx.Messages()[0]; strings.Contains(got.Mail, "SMTPUTF8") || !strings.Contains(string(got.Content), " with UTF8SMTP id ") {
			t.Errorf("%s, %.300q", got.Mail, got.Content)
		}
	})
	t.Run("SMTP-2.4-01 the case of addresses goes on", func(t *testing.T) {
		net := startLab(t)
		mx := net.AddMX(lab.MX{Name: "mx.example.test", Domains: []string{"example.test"}})
		f := start(t, net, parse(t, configText(shortDir(t), net, "")), nil)
		f.send("User@Sender.test", []string{"Some.Body@Example.test"}, letter("names", 0))
		if err := mx.WaitMessages(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if got := mx.Messages()[0]; got.From != "User@Sender.test" || len(got.To) != 1 || got.To[0] != "Some.Body@Example.test" {
			t.Errorf("from %q to %q", got.From, got.To)
		}
	})
}
