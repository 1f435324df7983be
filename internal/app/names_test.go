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
		c, err := textproto.Dial("tcp", f.address()) // a client that does not know SMTPUTF8, unlike net/smtp
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, line := range []string{"", "EHLO x", "MAIL FROM:<a@sender.test>", "RCPT TO:<b@example.test>", "DATA", "Subject: gr\xfcn\r\n\r\nx\r\n."} {
			if line != "" {
				if err := c.PrintfLine("%s", line); err != nil {
					t.Fatal(err)
				}
			}
			code, text, err := c.ReadResponse(0)
			if last := strings.HasPrefix(line, "Subject"); err != nil || last != (code == 554) || last && !strings.HasPrefix(text, "5.6.9 ") {
				t.Errorf("%q is answered %d %s, %v", line, code, text, err)
			}
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
