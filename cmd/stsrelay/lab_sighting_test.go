package main

import (
	"errors"
	"strings"
	"testing"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
)

const receivedField = "Received: from client.sender.test ([127.0.0.1])\r\n\tby relay.sender.test with ESMTP id 1A; Sat, 28 Nov 2026 09:00:00 +0000\r\n"

// arrival is a message to a.test as a host took it.
func arrival(change func(*lab.Arrival)) lab.Arrival {
	a := lab.Arrival{Host: "mx.a.test", Received: lab.Received{TLS: &lab.TLSState{}, Content: append([]byte(receivedField), letterTo("a.test", 1).content...)}}
	if change != nil {
		change(&a)
	}
	return a
}

func deferredEntry() *admin.QueueEntry {
	return &admin.QueueEntry{QueueName: "deferred", Attempts: 1, Reason: "mx-not-listed", Text: "the policy does not name it"}
}

// TestNothingIsTakenOnTheRelaysWord: whatever the relay says of itself, the
// hosts, the queue and the mailbox of the sender must agree.
func TestNothingIsTakenOnTheRelaysWord(t *testing.T) {
	sent := logLine{Status: "sent", TLS: "Verified TLSv1.3"}
	waits := logLine{Status: "deferred", Reason: "mx-not-listed"}
	returned := logLine{Status: "bounced", Reason: "null-mx"}
	bounce := &notice{recipient: "someone@a.test", action: "failed", status: "5.1.10"}
	delivered := lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified}
	for _, row := range []struct {
		name string
		want lab.Expect
		saw  sighting
		text string // of the problems, "" if there are none
	}{
		{"delivered", delivered, sighting{line: sent, arrivals: []lab.Arrival{arrival(nil)}, tellings: 1}, ""},
		{"delivered by the host that is expected", lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified, Via: "mx.a.test"},
			sighting{line: sent, arrivals: []lab.Arrival{arrival(nil)}}, ""},
		{"delivered by another host", lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified, Via: "mx2.a.test"},
			sighting{line: sent, arrivals: []lab.Arrival{arrival(nil)}}, "expected delivered, verified, by mx2.a.test, happened: delivered, verified, by mx.a.test"},
		{"delivered, and it must not be", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"},
			sighting{line: sent, arrivals: []lab.Arrival{arrival(nil)}}, "expected deferred (mx-not-listed), happened: delivered, verified"},
		{"sent, and no host has it", delivered, sighting{line: sent}, "the relay says delivered, and MX hosts took the message 0 times"},
		{"sent twice", delivered, sighting{line: sent, arrivals: []lab.Arrival{arrival(nil), arrival(nil)}}, "took the message 2 times"},
		{"verified, and it came in the clear", delivered, sighting{line: sent, arrivals: []lab.Arrival{arrival(func(a *lab.Arrival) { a.TLS = nil })}},
			"the relay says verified, and mx.a.test says in the clear"},
		{"less trust than expected", delivered, sighting{line: logLine{Status: "sent", TLS: "Untrusted TLSv1.3"}, arrivals: []lab.Arrival{arrival(nil)}},
			"expected delivered, verified, happened: delivered, untrusted"},
		{"REQUIRETLS went on unasked", delivered, sighting{line: sent, arrivals: []lab.Arrival{arrival(func(a *lab.Arrival) { a.Mail = "MAIL FROM:<a@b> REQUIRETLS" })}},
			"sent with REQUIRETLS: false, and reached mx.a.test with it: true"},
		{"REQUIRETLS got lost", delivered, sighting{line: sent, letter: letter{requireTLS: true}, arrivals: []lab.Arrival{arrival(nil)}},
			"sent with REQUIRETLS: true, and reached mx.a.test with it: false"},
		{"in the clear as expected", lab.Expect{Outcome: lab.Delivered, TLS: lab.Plaintext},
			sighting{line: logLine{Status: "sent"}, arrivals: []lab.Arrival{arrival(func(a *lab.Arrival) { a.TLS = nil })}}, ""},
		{"the content is damaged", delivered, sighting{line: sent, arrivals: []lab.Arrival{arrival(func(a *lab.Arrival) { a.Content = a.Content[:len(a.Content)-2] })}},
			"the content is not what was sent"},
		{"delivered, and a bounce came too", delivered, sighting{line: sent, arrivals: []lab.Arrival{arrival(nil)}, notice: bounce}, "it was delivered, and a bounce came"},

		{"deferred", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"}, sighting{line: waits, entry: deferredEntry()}, ""},
		{"deferred for another reason", lab.Expect{Outcome: lab.Deferred, Reason: "certificate-expired"}, sighting{line: waits, entry: deferredEntry()},
			"expected deferred (certificate-expired), happened: deferred (mx-not-listed)"},
		{"deferred, and a host took it", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"},
			sighting{line: waits, entry: deferredEntry(), arrivals: []lab.Arrival{arrival(nil)}}, "the relay says deferred, and MX hosts took the message 1 times"},
		{"refused, and a host was told", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"}, sighting{line: waits, entry: deferredEntry(), tellings: 1},
			"refused for mx-not-listed, and yet 1 times a host was told of the recipient"},
		{"the queue gives another reason", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"},
			sighting{line: waits, entry: &admin.QueueEntry{Attempts: 1, Reason: "dns-failed", Text: "x"}}, "the log says mx-not-listed, and the queue says dns-failed"},
		{"the queue gives no words", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"},
			sighting{line: waits, entry: &admin.QueueEntry{Attempts: 1, Reason: "mx-not-listed"}}, `the queue says mx-not-listed ("")`},
		{"deferred, and a bounce came", lab.Expect{Outcome: lab.Deferred, Reason: "mx-not-listed"}, sighting{line: waits, entry: deferredEntry(), notice: bounce},
			"it is still queued, and a bounce came"},
		{"a host that refuses the recipient was told of it", lab.Expect{Outcome: lab.Deferred, Reason: "remote-reply"},
			sighting{line: logLine{Status: "deferred", Reason: "remote-reply"}, tellings: 1,
				entry: &admin.QueueEntry{Attempts: 1, Reason: "remote-reply", Text: "450 later"}}, ""},

		{"bounced", lab.Expect{Outcome: lab.Bounced, Reason: "null-mx"}, sighting{line: returned, notice: bounce}, ""},
		{"bounced about someone else", lab.Expect{Outcome: lab.Bounced, Reason: "null-mx"},
			sighting{line: returned, notice: &notice{recipient: "other@a.test", action: "failed", status: "5.1.1"}}, "the bounce is about other@a.test"},
		{"bounced with a temporary status", lab.Expect{Outcome: lab.Bounced, Reason: "null-mx"},
			sighting{line: returned, notice: &notice{recipient: "someone@a.test", action: "failed", status: "4.4.1"}}, "failed 4.4.1"},
		{"a bounce that forgets REQUIRETLS", lab.Expect{Outcome: lab.Bounced, Reason: "null-mx"}, sighting{line: returned, letter: letter{requireTLS: true}, notice: bounce},
			"sent with REQUIRETLS: true, and the bounce: false"},
		{"a bounce that cannot be read", lab.Expect{Outcome: lab.Bounced, Reason: "null-mx"},
			sighting{line: returned, notice: &notice{}, noticeErr: errors.New("no boundary")}, "no boundary"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.saw.letter, row.saw.attempt = letterTo("a.test", 1).as(lab.Mail{RequireTLS: row.saw.letter.requireTLS}, nil), 1
			got := strings.Join(row.saw.against(row.want), "\n")
			if row.text == "" && got != "" || !strings.Contains(got, row.text) {
				t.Errorf("the problems are %q, not %q", got, row.text)
			}
		})
	}
}

func TestContentIsIntact(t *testing.T) {
	sent := "Subject: x\r\n\r\n.\r\nend\r\n"
	for _, row := range []struct {
		got string
		ok  bool
	}{
		{receivedField + sent, true},
		{"Received: short\r\n" + sent, true},
		{sent, false}, // no trace of us (RFC 5321, Section 4.4)
		{receivedField + receivedField + sent, false},
		{"X-Other: x\r\n" + receivedField + sent, false},
		{receivedField + "X-Other: x\r\n" + sent, false},
		{receivedField + "\r\n" + sent, false},
		{receivedField + sent + "\r\n", false},
		{receivedField + strings.Replace(sent, "\r\n.\r\n", "\r\n..\r\n", 1), false},
		{receivedField + strings.ReplaceAll(sent, "\r\n", "\n"), false},
		{"", false},
	} {
		if err := intact([]byte(sent), []byte(row.got)); (err == nil) != row.ok {
			t.Errorf("%q is %v", row.got, err)
		}
	}
}

func TestNoticesAreReadAsRFC3464Says(t *testing.T) {
	good := strings.ReplaceAll(`From: Mail delivery <postmaster@relay.test>
Subject: Not delivered
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; relay.test

Final-Recipient: rfc822; someone@a.test
Action: failed
Status: 5.1.10
--b
Content-Type: text/rfc822-headers

Subject: x
--b--
`, "\n", "\r\n")
	n, err := readNotice([]byte(good))
	if want := (notice{subject: "Not delivered", text: "Grüße", recipient: "someone@a.test", action: "failed", status: "5.1.10"}); err != nil || n != want {
		t.Errorf("%+v, %v", n, err)
	}
	for _, bad := range []string{
		"", "Subject: x\r\n\r\nhello\r\n",
		strings.Replace(good, "delivery-status;", "other;", 1),
		strings.Replace(good, "message/delivery-status", "message/other", 1),
		strings.Replace(good, "Final-Recipient", "X-Recipient", 1),
		good[:len(good)/2],
	} {
		if n, err := readNotice([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, n)
		}
	}
}
