package relay

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"stsrelay/delivery"

	"github.com/emersion/go-message"
	"github.com/rs/zerolog"
)

func bufioReader(s string) *bufio.Reader { return bufio.NewReader(strings.NewReader(s)) }

// FuzzDSN puts anything into every place of a DSN that others fill: it stays one
// well-formed DSN, with the fields that we wrote and no other.
func FuzzDSN(f *testing.F) {
	f.Add("5.1.1 no", "env+2B", "rfc822;a+40b", "Subject: x\r\n", "sts:enforce id=1", true)
	f.Add("a\r\nAction: delivered\r\n\r\nb", "+0D+0AX: y", "utf-8;\u00fc", "--stsrelay-1\r\n", "\x00\r\n", false)
	f.Add("x", "", `utf-8;\x{D}\x{A}Action: delivered\x{110000}\x{`, "S: \u00fc\r\n", "", false)
	f.Add(strings.Repeat("y", 2000)+"\n\n\n", strings.Repeat("+20", 90), ";;;", "\xff\xfe: \r\n\r\n", "", true)
	f.Fuzz(func(t *testing.T, text, envelope, original, header, policy string, remote bool) {
		err := byServer(550, [3]int{5, 1, 1}, text)
		if !remote {
			err = delivery.NewError(delivery.StagePolicy, delivery.CertExpired, mx1, text)
		}
		d := aDSN(err)
		d.Entry.Options.Envelope, d.About[0].Original, d.Header, d.About[0].outcome.Policy = envelope, original, []byte(header), policy
		c, cerr := d.compose()
		if cerr != nil {
			t.Fatal(cerr)
		}
		m, rerr := message.Read(bytes.NewReader(c.Body))
		if rerr != nil {
			t.Fatal(rerr)
		}
		parts := 0
		for r := m.MultipartReader(); ; parts++ {
			part, err := r.NextPart()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(part.Body)
			if err != nil {
				t.Fatal(err)
			}
			if parts == 1 {
				all := groups(t, string(body))
				if len(all) != 2 || len(all[1]["Action"]) != 1 || all[1].Get("Action") != "failed" || len(all[1]["Final-Recipient"]) != 1 || !d.isGlobal() && !is7bit(body) {
					t.Errorf("%q", body)
				}
			}
		}
		want := 3
		if header == "" {
			want = 2
		}
		if parts != want {
			t.Errorf("%d parts, want %d", parts, want)
		}
		if !is7bit(c.Body) {
			t.Errorf("not fit for every server: %q", c.Body)
		}
	})
}

func nopLog() zerolog.Logger { return zerolog.Nop() }
