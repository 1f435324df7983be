package app

import (
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

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
