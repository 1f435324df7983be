package relay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"stsrelay/delivery"
	"stsrelay/relay"
)

// with sends a message whose MAIL and RCPT have parameters, and returns what is
// queued of it.
func (d *desk) with(c *caller, mail string, rcpts ...string) relay.Entry {
	d.t.Helper()
	c.say("MAIL FROM:"+mail+"\r\n", "250")
	for _, r := range rcpts {
		c.say("RCPT TO:"+r+"\r\n", "250")
	}
	c.say("DATA\r\n", "354")
	c.say("Subject: x\r\n\r\nHello\r\n.\r\n", "250 2.0.0 queued as")
	list := d.queue()
	if len(list) != 1 {
		d.t.Fatalf("%d entries are queued", len(list))
	}
	return list[0]
}

func TestListenerDSN(t *testing.T) {
	t.Run("DSN-3-01 it is offered, with and without TLS", func(t *testing.T) {
		d := newTLSDesk(t, false, nil)
		c := d.call()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Count(got, "\n250-DSN\n") != 1 {
			t.Errorf("%q", got)
		}
		c = d.secure()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Count(got, "\n250-DSN\n") != 1 {
			t.Errorf("inside TLS: %q", got)
		}
	})
	hundred, ofOriginal := strings.Repeat("e", 100), "rfc822;"+strings.Repeat("o", 493)
	for _, tt := range []struct{ name, mail, ret, envelope string }{
		{"none", "", "", ""},
		{"DSN-4.3-01 RET=FULL", " RET=FULL", "FULL", ""},
		{"DSN-4.3-01 RET=HDRS in small letters", " ret=hdrs", "HDRS", ""},
		{"DSN-4.4-01 ENVID", " ENVID=QQ314159", "", "QQ314159"},
		{"DSN-4-01 ENVID stays as it is encoded", " ENVID=a+2Bb+3Dc+20+41", "", "a+2Bb+3Dc+20+41"},
		{"DSN-4.4-01 DSN-5.4-01 ENVID of 100 octets", " ENVID=" + hundred, "", hundred},
		{"both, among others", " BODY=8BITMIME RET=FULL SIZE=100 ENVID=x", "FULL", "x"},
	} {
		t.Run("MAIL: "+tt.name, func(t *testing.T) {
			d := newDesk(t, nil)
			if o := d.with(d.hello(), "<a@client.example>"+tt.mail, "<b@example.net>").Options; o.Return != tt.ret || o.Envelope != tt.envelope {
				t.Errorf("RET %q, ENVID %q", o.Return, o.Envelope)
			}
		})
	}
	for _, tt := range []struct{ name, rcpt, notify, original string }{
		{"none", "", "", ""},
		{"DSN-4.1-01 NOTIFY=NEVER", " NOTIFY=NEVER", "NEVER", ""},
		{"DSN-4.1-01 DSN-5.4-01 a list of 28 characters, in whatever case", " NOTIFY=Success,failure,DELAY", "SUCCESS,FAILURE,DELAY", ""},
		{"DSN-4.1-01 one word", " notify=delay", "DELAY", ""},
		{"DSN-4.1-01 a word twice", " NOTIFY=DELAY,FAILURE,DELAY", "DELAY,FAILURE", ""},
		{"DSN-4.2-01 ORCPT", " ORCPT=rfc822;B@Example.NET", "", "rfc822;B@Example.NET"},
		{"DSN-4.2-01 DSN-4-01 ORCPT stays as it is encoded, with its case", " orcpt=RFC822;u+2Bx+40a.example", "", "RFC822;u+2Bx+40a.example"},
		{"DSN-4.2-01 S18 a type that go-smtp does not know", " ORCPT=X400;/S+3Db/PRMD+3Dx/", "", "X400;/S+3Db/PRMD+3Dx/"},
		{"DSN-4.2-01 DSN-5.4-01 ORCPT of 500 octets", " ORCPT=" + ofOriginal, "", ofOriginal},
		{"both", " ORCPT=rfc822;b@example.net NOTIFY=FAILURE", "FAILURE", "rfc822;b@example.net"},
	} {
		t.Run("RCPT: "+tt.name, func(t *testing.T) {
			d := newDesk(t, nil)
			if r := d.with(d.hello(), "<a@client.example>", "<b@example.net>"+tt.rcpt).To[0]; r.Notify != tt.notify || r.Original != tt.original {
				t.Errorf("NOTIFY %q, ORCPT %q", r.Notify, r.Original)
			}
		})
	}
	for _, tt := range []struct{ name, mail, rcpt string }{
		{"DSN-4.3-01 RET of another value", "RET=foo", ""},
		{"DSN-4.3-01 RET without a value", "RET", ""},
		{"DSN-4.3-01 RET with an empty value", "RET=", ""},
		{"DSN-4.5-01 RET twice", "RET=HDRS RET=FULL", ""},
		{"DSN-4.5-01 RET twice, in another case", "RET=HDRS ret=HDRS", ""},
		{"DSN-4.5-01 ENVID twice", "ENVID=a ENVID=a", ""},
		{"DSN-4.4-01 ENVID without a value", "ENVID", ""},
		{"DSN-4.4-01 ENVID with an empty value", "ENVID=", ""},
		{"DSN-4.4-01 ENVID that stands for a control character", "ENVID=a+0Ab", ""},
		{"DSN-4.4-01 ENVID that stands for what is not ASCII", "ENVID=a+FCb", ""},
		{"DSN-4.4-01 ENVID of 101 octets", "ENVID=" + hundred + "e", ""},
		{"DSN-4-01 small letters in a hexchar", "ENVID=a+2bb", ""},
		{"DSN-4-01 half a hexchar", "ENVID=a+2", ""},
		{"DSN-4-01 a + at the end", "ENVID=a+", ""},
		{"DSN-4-01 no hexchar", "ENVID=a+XY", ""},
		{"DSN-4-01 a = in it", "ENVID=a=b", ""},
		{"DSN-4-01 octets that are not ASCII", "SMTPUTF8 ENVID=\xc3\xbc", ""},
		{"DSN-4.1-01 NEVER beside another word", "", "NOTIFY=NEVER,FAILURE"},
		{"DSN-4.1-01 NEVER behind another word", "", "NOTIFY=FAILURE,NEVER"},
		{"DSN-4.1-01 an empty list", "", "NOTIFY="},
		{"DSN-4.1-01 no list", "", "NOTIFY"},
		{"DSN-4.1-01 an empty word", "", "NOTIFY=FAILURE,"},
		{"DSN-4.1-01 another word", "", "NOTIFY=ALWAYS"},
		{"DSN-4.5-01 NOTIFY twice", "", "NOTIFY=DELAY NOTIFY=DELAY"},
		{"DSN-4.5-01 ORCPT twice", "", "ORCPT=rfc822;b@example.net orcpt=rfc822;b@example.net"},
		{"DSN-4.2-01 ORCPT without a type", "", "ORCPT=b@example.net"},
		{"DSN-4.2-01 ORCPT with an empty type", "", "ORCPT=;b@example.net"},
		{"DSN-4.2-01 ORCPT whose type is no atom", "", "ORCPT=rfc(822);b@example.net"},
		{"DSN-4.2-01 ORCPT without an address", "", "ORCPT=rfc822;"},
		{"DSN-4.2-01 ORCPT without a value", "", "ORCPT"},
		{"DSN-4.2-01 ORCPT that stands for a control character", "", "ORCPT=rfc822;a+0D+0ABcc:x"},
		{"DSN-4-01 ORCPT with small letters in a hexchar", "", "ORCPT=rfc822;u+2bx@a.example"},
		{"DSN-4.2-01 ORCPT of 501 octets", "", "ORCPT=" + ofOriginal + "o"},
	} {
		t.Run("501 5.5.4: "+tt.name, func(t *testing.T) {
			c := newDesk(t, nil).hello()
			if tt.mail != "" {
				c.say("MAIL FROM:<a@client.example> "+tt.mail+"\r\n", "501 5.5.4")
				c.say("RCPT TO:<b@example.net>\r\n", "503")
				return
			}
			c.say("MAIL FROM:<a@client.example>\r\n", "250")
			c.say("RCPT TO:<b@example.net> "+tt.rcpt+"\r\n", "501 5.5.4")
			c.say("DATA\r\n", "554")
		})
	}
	t.Run("DSN-4.5-01 valid ones never change the reply", func(t *testing.T) {
		c := newDesk(t, nil).hello()
		c.say("MAIL FROM:<a@client..example> RET=FULL ENVID=x\r\n", "501 5.1.7")
		c.say("MAIL FROM:<a@client.example> RET=FULL ENVID=x\r\n", "250")
		c.say("RCPT TO:<b@example..net> NOTIFY=NEVER\r\n", "501 5.1.3")
	})
	t.Run("DSN-5.4-01 a command line of 2048 octets", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.say("MAIL FROM:<a@client.example>\r\n", "250")
		line := "RCPT TO:<b@example.net> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=" + ofOriginal
		c.say(line+strings.Repeat(" ", 2046-len(line))+"\r\n", "250")
	})
	t.Run("of a recipient that is named twice the first one's parameters count", func(t *testing.T) {
		d := newDesk(t, nil)
		e := d.with(d.hello(), "<a@client.example>", "<b@example.net> NOTIFY=NEVER", "<b@EXAMPLE.net> NOTIFY=SUCCESS ORCPT=rfc822;x@example.net", "<c@example.net> NOTIFY=DELAY")
		if len(e.To) != 2 || e.To[0].Notify != "NEVER" || e.To[0].Original != "" || e.To[1].Notify != "DELAY" {
			t.Errorf("%+v", e.To)
		}
	})
	t.Run("S18 parameters are those of their own command, however much is sent at once", func(t *testing.T) {
		d := newDesk(t, nil)
		c := d.hello()
		c.say("MAIL FROM:<a@client.example> ENVID=1\r\nRSET\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<bad> NOTIFY=NEVER\r\nRCPT TO:<b@example.net>\r\n"+
			"RCPT TO:<c@example.net> NOTIFY=DELAY\r\nNOOP\r\nRCPT TO:d@example.net NOTIFY=SUCCESS\r\nDATA\r\n", "250", "250", "250", "501", "250", "250", "250", "250", "354")
		c.say(".\r\n", "250")
		e := d.queue()[0]
		var got []string
		for _, r := range e.To {
			got = append(got, r.Address.String()+" "+r.Notify)
		}
		if want := []string{"b@example.net ", "c@example.net DELAY", "d@example.net SUCCESS"}; e.Options.Envelope != "" || !slices.Equal(got, want) {
			t.Errorf("%q, ENVID %q", got, e.Options.Envelope)
		}
	})
	t.Run("S6 S18 what a quoted local part holds is no parameter", func(t *testing.T) {
		d := newDesk(t, nil)
		e := d.with(d.hello(), "<a@client.example>", `<"x> NOTIFY=NEVER"@example.net> NOTIFY=DELAY`, `<"y\"> NOTIFY=NEVER"@example.net>`)
		if e.To[0].Notify != "DELAY" || e.To[1].Notify != "" || e.To[1].Address.String() != `"y\"> NOTIFY=NEVER"@example.net` {
			t.Errorf("%+v", e.To)
		}
	})
	for _, send := range []string{"MAIL FROM:<a@client.example>RET=FULL", "MAIL FROM:<a@client.example>x RET=FULL"} {
		t.Run("S18 a parameter needs a space before it: "+send, func(t *testing.T) {
			newDesk(t, nil).hello().say(send+"\r\n", "501 5.5.4")
		})
	}
}

func TestListenerOffersNoChunks(t *testing.T) {
	t.Run("CHUNK-2-04 CHUNK-3-01 neither CHUNKING nor BINARYMIME is offered", func(t *testing.T) {
		c := newDesk(t, nil).call()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Contains(got, "CHUNKING") || strings.Contains(got, "BINARYMIME") {
			t.Errorf("%q", got)
		}
	})
}

func TestListenerSMTPUTF8(t *testing.T) {
	t.Run("UTF8-3.1-03 it is offered, and 8BITMIME with it", func(t *testing.T) {
		c := newDesk(t, nil).call()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Count(got, "\n250-SMTPUTF8\n") != 1 || !strings.Contains(got, "\n250-8BITMIME\n") {
			t.Errorf("%q", got)
		}
	})
	t.Run("UTF8-3.3-01 UTF8-4.3-01 UTF8-3.7.3-01 addresses that are not ASCII are taken, and named in Received", func(t *testing.T) {
		d := newDesk(t, nil)
		e := d.with(d.hello(), "<grüße@bücher.example> SMTPUTF8", "<\"ö ß\"@bücher.example>")
		if e.From.String() != "grüße@bücher.example" || e.To[0].Address.String() != `"ö ß"@bücher.example` || e.Destination != "xn--bcher-kva.example" || !e.Options.UTF8 || !e.Options.EightBit {
			t.Errorf("%+v", e)
		}
		if got := d.body(e.Message); !strings.Contains(got, " with UTF8SMTP id ") || !strings.Contains(got, "\tfor <\"ö ß\"@bücher.example>;") {
			t.Errorf("%q", got)
		}
	})
	t.Run("UTF8-3.7.3-01 Received is ASCII where the message can go without SMTPUTF8", func(t *testing.T) {
		d := newDesk(t, nil)
		e := d.with(d.hello(), "<a@client.example> SMTPUTF8", "<b@bücher.example>")
		if got := d.body(e.Message); e.Options.EightBit || !strings.Contains(got, "\tfor <b@xn--bcher-kva.example>;") {
			t.Errorf("eight bits %v: %q", e.Options.EightBit, got)
		}
	})
	t.Run("UTF8-4.3-01 inside TLS", func(t *testing.T) {
		d := newTLSDesk(t, true, nil)
		e := d.with(d.secureHello(), "<a@client.example> SMTPUTF8", "<b@example.net>")
		if got := d.body(e.Message); !strings.Contains(got, " with UTF8SMTPS id ") {
			t.Errorf("%q", got)
		}
	})
	for _, tt := range []struct{ name, mail, rcpt, want string }{
		{"UTF8-3.5-01 a sender that is not ASCII, without it", "<grüße@client.example>", "", "550 5.6.7"},
		{"UTF8-3.5-01 a recipient that is not ASCII, without it", "<a@client.example>", "<grüße@example.net>", "553 5.6.7"},
		{"UTF8-3.5-01 a recipient's domain, without it", "<a@client.example>", "<b@bücher.example>", "553 5.6.7"},
		{"UTF8-3.3-01 an overlong form", "<a\xc0\xafb@client.example> SMTPUTF8", "", "501 5.1.7"},
		{"UTF8-3.3-01 octets that are no UTF-8", "<a@client.example> SMTPUTF8", "<gr\xfc@example.net>", "501 5.1.3"},
		{"UTF8-3.3-01 a surrogate in a domain", "<a@client.example> SMTPUTF8", "<b@\xed\xa0\x80.example>", "501 5.1.3"},
		{"UTF8-3.3-01 a value that is no UTF-8", "<a@client.example> SMTPUTF8", "<b@example.net> ORCPT=utf-8;\xfc@example.net", "501 5.5.4"},
		{"it has no value", "<a@client.example> SMTPUTF8=yes", "", "501 5.5.4"},
		{"it is there once", "<a@client.example> SMTPUTF8 SMTPUTF8", "", "501 5.5.4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newDesk(t, nil).hello()
			if tt.rcpt == "" {
				c.say("MAIL FROM:"+tt.mail+"\r\n", tt.want)
				return
			}
			c.say("MAIL FROM:"+tt.mail+"\r\nRCPT TO:"+tt.rcpt+"\r\n", "250", tt.want)
		})
	}
	for name, want := range map[string]bool{"Subject: gr\xc3\xbcn\r\n": true, "Subject: gr\xfcn\r\n": false, "Subject: gruen\r\n": false} {
		t.Run(fmt.Sprintf("UTF8-6532-01 a header without it is taken as it is: %q", name), func(t *testing.T) {
			d := newDesk(t, nil)
			if got := d.hello().mail(name + "\r\nx"); !strings.HasPrefix(got, "250") {
				t.Fatal(got)
			}
			if o := d.queue()[0].Options; o.Head8 != want || o.UTF8 || d.content() != name+"\r\nx\r\n" {
				t.Errorf("%+v, %q", o, d.content())
			}
		})
	}
	for header, want := range map[string]bool{
		"Subject: x\r\n": false,
		"Content-Type: text/plain; charset=utf-8\r\n":       false,
		"content-type:\r\n Text/HTML\r\n":                   false,
		"Content-Type: multipart/mixed; boundary=x\r\n":     true,
		"Content-Type: message/rfc822\r\n":                  true,
		"Content-Type: application/pkcs7-mime\r\n":          true,
		"Content-Type: text/plain\r\nContent-Type: a/b\r\n": true,
	} {
		t.Run(fmt.Sprintf("whether there may be headers of parts: %q", header), func(t *testing.T) {
			d := newDesk(t, nil)
			if got := d.hello().mail(header + "\r\n\xfc"); !strings.HasPrefix(got, "250") || d.queue()[0].Options.Single == want {
				t.Errorf("%q, %+v", got, d.queue()[0].Options)
			}
		})
	}
	for _, header := range []string{"Subject: gr\xc3\xbcn\r\n", "Subject: gr\xfcn\r\n"} {
		t.Run(fmt.Sprintf("UTF8-6532-01 UTF8-3.5-01 a strict listener takes it with SMTPUTF8 only: %q", header), func(t *testing.T) {
			d := newDesk(t, func(o *relay.ListenerOptions) { o.StrictHeaders = true })
			c := d.hello()
			if got := c.mail(header + "\r\nx"); !strings.HasPrefix(got, "554 5.6.9") {
				t.Errorf("%q", got)
			}
			if got := c.mail("Subject: x\r\n\r\n\xfc"); !strings.HasPrefix(got, "250") {
				t.Errorf("8-bit content: %q", got)
			}
			c.say("MAIL FROM:<a@client.example> SMTPUTF8\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", "250", "250", "354")
			c.say(header+"\r\nx\r\n.\r\n", "250")
		})
	}
	for _, original := range []string{
		`utf-8;gr\x{FC}\x{DF}e@example.net`, // utf-8-addr-xtext
		`utf-8;grüß\x{20}e@example.net`,     // utf-8-addr-unitext
		`utf-8;grüße@bücher.example`,        // utf-8-address
		`UTF-8;\x{5C}\x{2B}\x{3D}\x{7F}\x{1F600}\x{10FFFF}@example.net`,
		`utf-8;b@example.net`,
	} {
		t.Run("DSN8-3-01 UTF8-3.2-05 ORCPT="+original, func(t *testing.T) {
			d := newDesk(t, nil)
			if got := d.with(d.hello(), "<a@client.example> SMTPUTF8", "<b@example.net> ORCPT="+original).To[0].Original; got != original {
				t.Errorf("it is stored as %q", got)
			}
		})
	}
	for _, tt := range []struct{ mail, original string }{
		{"", `utf-8;grüße@example.net`}, // RFC 6531, Section 3.3: with SMTPUTF8 only
		{" SMTPUTF8", `rfc822;grüße@example.net`},
		{" SMTPUTF8", `utf-8;a\b@example.net`},
		{" SMTPUTF8", `utf-8;a+2Bb@example.net`},
		{" SMTPUTF8", `utf-8;a\x{41}@example.net`},
		{" SMTPUTF8", `utf-8;a\x{D800}@example.net`},
		{" SMTPUTF8", `utf-8;a\x{110000}@example.net`},
		{" SMTPUTF8", `utf-8;a\x{00000FC}@example.net`},
		{" SMTPUTF8", `utf-8;a\x{FC@example.net`},
		{" SMTPUTF8", `utf-8;a\x{}@example.net`},
		{" SMTPUTF8", `utf-8;a\x{00}@example.net`},
	} {
		t.Run(fmt.Sprintf("no ORCPT:%s %s", tt.mail, tt.original), func(t *testing.T) {
			c := newDesk(t, nil).hello()
			c.say("MAIL FROM:<a@client.example>"+tt.mail+"\r\nRCPT TO:<b@example.net> ORCPT="+tt.original+"\r\n", "250", "501 5.5.4")
		})
	}
	t.Run("utf-8-addr-xtext is for mail without SMTPUTF8 too", func(t *testing.T) {
		d := newDesk(t, nil)
		if got := d.with(d.hello(), "<a@client.example>", `<b@example.net> ORCPT=utf-8;gr\x{FC}n@example.net`).To[0].Original; got != `utf-8;gr\x{FC}n@example.net` {
			t.Errorf("%q", got)
		}
	})
	t.Run("no reply has what is not ASCII", func(t *testing.T) {
		c := newDesk(t, nil).hello()
		for _, line := range []string{"MAIL FROM:<grüße@client.example> SMTPUTF8", "RCPT TO:<ü@example.net>", "RCPT TO:<ü..@example.net>", "VRFY ü SMTPUTF8", "ÜÜÜÜ"} {
			c.send(line + "\r\n")
			if got := c.reply(); strings.ContainsFunc(got, func(r rune) bool { return r > 0x7e }) {
				t.Errorf("%q", got)
			}
		}
	})
}

func TestListenerREQUIRETLS(t *testing.T) {
	bothKinds(t, "RTLS-7-01 it is offered inside TLS, and not before", nil, func(t *testing.T, d *tlsDesk) {
		if !d.implicit {
			c := d.call()
			c.send("EHLO client.example\r\n")
			if got := c.reply(); strings.Contains(got, "REQUIRETLS") {
				t.Errorf("in the clear: %q", got)
			}
			c.say("MAIL FROM:<a@client.example> REQUIRETLS\r\n", "530 5.7.10")
		}
		c := d.secure()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Count(got, "\n250-REQUIRETLS\n") != 1 {
			t.Errorf("inside TLS: %q", got)
		}
		c.say("MAIL FROM:<a@client.example> REQUIRETLS=1\r\n", "501 5.5.4")
		c.say("MAIL FROM:<a@client.example> REQUIRETLS\r\n", "250")
	})
	t.Run("RTLS-7-01 nor where there is no TLS", func(t *testing.T) {
		c := newDesk(t, nil).call()
		c.send("EHLO client.example\r\n")
		if got := c.reply(); strings.Contains(got, "REQUIRETLS") {
			t.Errorf("%q", got)
		}
	})
	const parameter, field = " REQUIRETLS", "TLS-Required: No\r\n"
	for _, tt := range []struct {
		name, mail, header string
		ignore             bool
		want               delivery.Demand
	}{
		{"neither", "", "", false, delivery.Default},
		{"RTLS-4.1-01 RTLS-4.1-03 RTLS-4.3-01 the parameter", parameter, "", false, delivery.Require},
		{"RTLS-4.1-02 RTLS-4.1-03 RTLS-4.3-01 the field", "", field, false, delivery.Ignore},
		{"RTLS-4.1-02 both: the parameter counts", parameter, field, false, delivery.Require},
		{"RTLS-3-01 the field twice", "", field + field, false, delivery.Default},
		{"RTLS-3-01 the field with another value", "", "TLS-Required: Yes\r\n", false, delivery.Default},
		{"the field, where it is not heard", "", field, true, delivery.Default},
		{"the parameter, where the field is not heard", parameter, field, true, delivery.Require},
	} {
		bothKinds(t, tt.name, func(o *relay.ListenerOptions) { o.IgnoreTLSRequired = tt.ignore }, func(t *testing.T, d *tlsDesk) {
			c := d.secureHello()
			c.say("MAIL FROM:<a@client.example>"+tt.mail+"\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n", "250", "250", "250", "354")
			content := tt.header + "Subject: x\r\n\r\nHello\r\n"
			c.say(content+".\r\n", "250")
			list := d.queue()
			if len(list) != 2 {
				t.Fatalf("%d entries", len(list))
			}
			for _, e := range list {
				if e.Options.Demand != tt.want {
					t.Errorf("%s: %s", e.Destination, e.Options.Demand)
				}
				if got := afterReceived(t, d.body(e.Message)); got != content {
					t.Errorf("%q is queued", got)
				}
			}
		})
	}
}
