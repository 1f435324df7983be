package lab_test

import (
	"crypto/tls"
	"io"
	"strings"
	"testing"

	"stsrelay/internal/lab"
)

// BenchmarkMX is what a message of 10 KB on a kept connection over TLS costs,
// client included, two flights each: load tests have to take it off.
func BenchmarkMX(b *testing.B) {
	for name, forget := range map[string]bool{"recording": false, "forgetting": true} {
		b.Run(name, func(b *testing.B) {
			w, err := lab.Start(lab.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			mx := w.AddMX(lab.MX{Name: host, ImplicitTLS: true, Forget: forget})
			conn, err := w.Dialer().DialContext(b.Context(), "tcp", mx.Addr()+":25")
			if err != nil {
				b.Fatal(err)
			}
			c := tls.Client(conn, &tls.Config{RootCAs: w.Roots(), ServerName: host})
			defer c.Close()
			text := strings.Repeat(strings.Repeat("x", 78)+"\r\n", 128) + ".\r\n"
			expect := func(say string, replies int) {
				if _, err := io.WriteString(c, say); err != nil {
					b.Fatal(err)
				}
				for n := 0; n < replies; {
					var buf [4096]byte
					k, err := c.Read(buf[:])
					if err != nil {
						b.Fatal(err)
					}
					n += strings.Count(string(buf[:k]), "\n")
				}
			}
			expect("HELO a\r\n", 2)
			for b.Loop() {
				expect("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", 3)
				expect(text, 1)
			}
			if mx.Count() != b.N {
				b.Errorf("%d messages arrived, not %d", mx.Count(), b.N)
			}
		})
	}
}
