package main

import (
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

func TestSend(t *testing.T) {
	t.Setenv("LANG", "C.UTF-8")
	t.Setenv("LC_ALL", "")
	w := startCheckLab(t, lab.Domains())
	mx := w.AddMX(lab.MX{Name: "mx.mine.test", Domains: []string{"mine.test"}, RequireTLS: true})
	w.AddPolicy(lab.Policy{Domain: "mine.test", ID: "1", MX: []string{"mx.mine.test"}})

	t.Run("the conversation, without the content", func(t *testing.T) {
		code, out, errs := toolIn(t, w, "send", "--to", "you@mine.test", "--from", "me@sender.test", "--helo", "me.test", "--requiretls")
		want := []string{"   connected to 127.", "<- 220 mx.mine.test", "-> EHLO me.test\n", "-> STARTTLS\n", "-> MAIL FROM:<me@sender.test>", " REQUIRETLS\n", "-> RCPT TO:<you@mine.test>\n",
			"-> DATA\n", "-> (7 lines)\n-> .\n", "-> QUIT\n", "✓ you@mine.test: delivered\n", " TLS      Verified TLSv1.3\n", " Policy   sts:enforce id=1\n"}
		rest := out
		for _, s := range want {
			_, after, ok := strings.Cut(rest, s)
			if !ok {
				t.Fatalf("exit %d %s: no %q, or not there, in\n%s", code, errs, s, out)
			}
			rest = after
		}
		if code != 0 || strings.Contains(out, "No answer is needed") || mx.Count() != 1 {
			t.Errorf("exit %d, %d messages\n%s", code, mx.Count(), out)
		}
	})
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a rule refuses":                 {[]string{"--to", "a@expired.test"}, 1, " Reason   certificate-expired: "},
		"what the owner can do":          {[]string{"--to", "a@expired.test", "-q"}, 1, " Fix      renew the certificate"},
		"the rule is lifted":             {[]string{"--to", "a@expired.test", "--tls-required-no"}, 0, " TLS      Untrusted "},
		"a policy that is not published": {[]string{"--to", "a@no-policy-self-signed.test", "--policy", "testdata/policy_for_send.txt", "--as", "enforce"}, 1, "mx-not-listed"},
		"the server refuses":             {[]string{"--to", "a@no-such-user.test"}, 1, ": refused\n"},
		"a temporary fault":              {[]string{"--to", "a@mx-down.test"}, 3, " Reason   connect-failed: "},
		"DNS fails":                      {[]string{"--to", "a@dns-fails.test"}, 3, "dns-failed"},
		"a domain without mail":          {[]string{"--to", "a@null-mx.test"}, 1, "null-mx"},
		"for programs":                   {[]string{"--to", "a@ok.test", "--json"}, 0, `"schema":"stsrelay.send/v1","status":"delivered"`},
		"no recipient":                   {nil, 2, "--to"},
		"an address literal":             {[]string{"--to", "a@[192.0.2.1]"}, 2, "has no domain"},
		"a contradiction":                {[]string{"--to", "a@ok.test", "--requiretls", "--tls-required-no"}, 2, "contradict"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := toolIn(t, w, append([]string{"send"}, tt.args...)...)
			if code != tt.code || !strings.Contains(out+errs, tt.says) {
				t.Errorf("exit %d, want %d and %q in\n%s%s", code, tt.code, tt.says, out, errs)
			}
		})
	}
}
