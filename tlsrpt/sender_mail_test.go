package tlsrpt_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

func TestMailing(t *testing.T) {
	inBubble(t, "RPT-5.3-10 RPT-3-20 each mailbox gets a mail of its own through the queue, signed", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "mailto:one@a.example,mailto:two@b.example")
		b.start()
		b.count("a.example", 1, tlsrpt.CertificateExpired)
		time.Sleep(day + 4*time.Hour + time.Second)
		synctest.Wait()
		mail := b.queue()
		if len(mail) != 2 || !slices.Equal(b.queuing, []string{"one@a.example", "two@b.example"}) {
			t.Fatalf("%d mails, told of %v", len(mail), b.queuing)
		}
		slices.SortFunc(mail, func(x, y relay.Entry) int { return strings.Compare(x.To[0].Address.String(), y.To[0].Address.String()) })
		_, public := testKey(t)
		for i, to := range []string{"one@a.example", "two@b.example"} {
			c := string(b.content(mail[i]))
			if mail[i].To[0].Address.String() != to || !strings.Contains(c, "\r\nTo: <"+to+">\r\n") || strings.Contains(c, []string{"two@b", "one@a"}[i]) {
				t.Errorf("mail to %s:\n%s", mail[i].To[0].Address, c)
			}
			if tags, err := tlsrpt.VerifyDKIM([]byte(c), map[string]string{keyName: public}); err != nil || len(tags) != 1 || tags[0]["d"] != sender {
				t.Errorf("signatures %v, %v", tags, err)
			}
			if o := mail[i].Options; !o.Report || o.Expire != day || mail[i].From.String() != "noreply@"+sender {
				t.Errorf("options %+v, from %s", o, mail[i].From)
			}
		}
		time.Sleep(3 * day)
		synctest.Wait()
		if len(b.queue()) != 2 {
			t.Error("it was queued again")
		}
		b.end()
	})
	inBubble(t, "RPT-3-28 without a key no mail is sent, and one warning; https is", func(o *tlsrpt.Options) { o.Keys = nil }, func(t *testing.T, b *bubble) {
		b.publish("a.example", "mailto:one@a.example,https://r.example/v1")
		b.publish("b.example", "mailto:one@b.example")
		b.start()
		b.count("a.example", 1)
		b.count("b.example", 1)
		time.Sleep(2 * day)
		synctest.Wait()
		if len(b.queue()) != 0 || len(b.received("r.example")) != 1 {
			t.Errorf("%d mails, %d posts", len(b.queue()), len(b.received("")))
		}
		if n := strings.Count(b.logged(), `"level":"warn"`); n != 1 || !strings.Contains(b.logged(), "no DKIM key of this domain") {
			t.Errorf("%d warnings in\n%s", n, b.logged())
		}
		if jobs := b.jobs(); jobs[0].State != tlsrpt.Sent || jobs[1].State != tlsrpt.Suppressed || !strings.Contains(jobs[1].Parts[0].Why, "DKIM") {
			t.Errorf("%+v", jobs)
		}
		b.end()
	})
	inBubble(t, "RPT-3-23 while the published key does not verify, mail waits; RPT-3-25 and there are warnings", nil, func(t *testing.T, b *bubble) {
		good := b.txt[keyName]
		b.mu.Lock()
		b.txt[keyName] = []string{"v=DKIM1; k=ed25519; p="}
		b.mu.Unlock()
		b.publish("a.example", "mailto:one@a.example")
		b.start()
		b.count("a.example", 1)
		time.Sleep(day + 5*time.Hour)
		synctest.Wait()
		if j := b.one(); len(b.queue()) != 0 || j.State != tlsrpt.Pending || !strings.Contains(j.Parts[0].Why, "revoked") {
			t.Errorf("%+v", j)
		}
		b.mu.Lock()
		b.txt[keyName] = []string{strings.Replace(good[0], " s=tlsrpt:email;", "", 1)}
		b.mu.Unlock()
		time.Sleep(day)
		synctest.Wait()
		if len(b.queue()) != 1 || !strings.Contains(b.logged(), "revoked") || !strings.Contains(b.logged(), "does not name tlsrpt") {
			t.Errorf("%d mails\n%s", len(b.queue()), b.logged())
		}
		b.end()
	})
	inBubble(t, "a key that cannot be looked up just now does not hold mail up", nil, func(t *testing.T, b *bubble) {
		b.fail(keyName, servfail)
		b.publish("a.example", "mailto:one@a.example")
		b.start()
		b.count("a.example", 1)
		time.Sleep(day + 5*time.Hour)
		synctest.Wait()
		if len(b.queue()) != 1 {
			t.Errorf("%+v", b.one())
		}
		b.end()
	})
}

func TestOperatorsWord(t *testing.T) {
	suppress := func(list ...string) func(*tlsrpt.Options) { return func(o *tlsrpt.Options) { o.Suppress = list } }
	inBubble(t, "RPT-8-01 domains and destinations can be suppressed", suppress("a.example", ".b.example", "mailto:no@c.example", "@never.example"), func(t *testing.T, b *bubble) {
		b.start()
		for _, d := range []string{"a.example", "x.b.example", "c.example", "d.example"} {
			b.publish(d, "https://r.example/"+d+",mailto:no@c.example,https://never.example/,mailto:x@never.example")
			b.count(d, 1)
		}
		time.Sleep(2 * day)
		synctest.Wait()
		if len(b.queue()) != 0 || len(b.received("")) != 2 || len(b.received("r.example/c.example"))+len(b.received("r.example/d.example")) != 2 {
			t.Errorf("%d mails, posts %+v", len(b.queue()), b.received(""))
		}
		for i, want := range []tlsrpt.State{tlsrpt.Suppressed, tlsrpt.Sent, tlsrpt.Sent, tlsrpt.Suppressed} {
			if j := b.jobs()[i]; j.State != want {
				t.Errorf("%+v", j)
			}
		}
		b.end()
	})
	inBubble(t, "RPT-4.2-04 days without failures can be left out", func(o *tlsrpt.Options) { o.FailuresOnly = true }, func(t *testing.T, b *bubble) {
		b.start()
		b.publish("a.example", "https://r.example/a")
		b.publish("b.example", "https://r.example/b")
		b.count("a.example", 3)
		b.count("b.example", 3, tlsrpt.DANERequired)
		time.Sleep(2 * day)
		synctest.Wait()
		if got := b.received("r.example"); len(got) != 1 || got[0].Report.domain() != "b.example" || b.jobs()[0].State != tlsrpt.Suppressed {
			t.Errorf("%+v", got)
		}
		b.end()
	})
	replace, err := tlsrpt.ParseRUA("https://test.example/all")
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, "every report can be sent elsewhere, for tests", func(o *tlsrpt.Options) { o.Replace = []tlsrpt.RUA{replace} }, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a")
		b.start()
		b.count("a.example", 3)
		b.count("no-record.example", 1)
		time.Sleep(2 * day)
		synctest.Wait()
		if len(b.received("test.example")) != 2 || len(b.received("")) != 2 {
			t.Errorf("%+v", b.received(""))
		}
		b.end()
	})
	inBubble(t, "the operator can have a copy by mail, of what was wanted", func(o *tlsrpt.Options) { o.BCC = []addr.Address{addr.MustAddress("ops@relay.example")} }, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a")
		b.start()
		b.count("a.example", 3)
		b.count("unwanted.example", 3)
		time.Sleep(2 * day)
		synctest.Wait()
		mail := b.queue()
		if len(mail) != 1 || mail[0].To[0].Address.String() != "ops@relay.example" || len(b.received("r.example")) != 1 {
			t.Fatalf("%+v", mail)
		}
		if c := string(b.content(mail[0])); !strings.Contains(c, "TLS-Report-Domain: a.example") || strings.Contains(c, "r.example/a") {
			t.Errorf("copy:\n%s", c)
		}
		b.end()
	})
	inBubble(t, "RPT-8-01 without a contact nothing is sent at all", func(o *tlsrpt.Options) { o.Identity = tlsrpt.Identity{} }, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a")
		b.start()
		b.count("a.example", 3)
		time.Sleep(2 * day)
		synctest.Wait()
		if len(b.received("")) != 0 || len(b.jobs()) != 0 || b.sender.Idle() == "" {
			t.Errorf("%+v", b.received(""))
		}
		if _, err := b.sender.SendNow(t.Context(), tlsrpt.Request{}); err == nil || !strings.Contains(err.Error(), "contact") {
			t.Errorf("SendNow says %v", err)
		}
		time.Sleep(40 * day)
		synctest.Wait()
		for tally := range b.store.Tallies(t.Context(), "") {
			t.Errorf("still kept after 40 days: %+v", tally)
		}
		b.end()
	})
}

func TestNewSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, nil)
		b.o.Store = b.store
		defer b.store.Close()
		for _, c := range []struct {
			name   string
			change func(*tlsrpt.Options)
			want   string
		}{
			{"RPT-3-27 From of another domain", func(o *tlsrpt.Options) { o.From = addr.MustAddress("x@other.example") }, "domain must be that of contact"},
			{"a contact at an address literal", func(o *tlsrpt.Options) { o.Contact = addr.MustAddress("x@[192.0.2.1]") }, "with a domain"},
			{"a suppression that means nothing", func(o *tlsrpt.Options) { o.Suppress = []string{"not a domain"} }, "suppress"},
			{"a suppressed URI that is none", func(o *tlsrpt.Options) { o.Suppress = []string{"http://x/"} }, "neither mailto nor https"},
			{"no store", func(o *tlsrpt.Options) { o.Store = nil }, "Store"},
			{"in order", func(o *tlsrpt.Options) { o.From = addr.Address{} }, ""},
		} {
			o := b.o
			c.change(&o)
			_, err := tlsrpt.NewSender(o)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}
