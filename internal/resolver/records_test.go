package resolver

import (
	"cmp"
	"slices"
	"testing"

	"stsrelay/internal/addr"

	"github.com/miekg/dns"
)

// TestShortData sends records whose data ends early. The library reads such a
// record as one with empty fields, which must not become a policy.
func TestShortData(t *testing.T) {
	ask := map[uint16]func(*Client) (n int, secure bool, err error){
		dns.TypeMX: func(c *Client) (int, bool, error) {
			a, err := c.MX(t.Context(), example)
			return len(a.Records), a.Secure, err
		},
		dns.TypeTLSA: func(c *Client) (int, bool, error) {
			a, err := c.TLSA(t.Context(), 25, addr.MustHost("mx.test"))
			return len(a.Records), a.Secure, err
		},
		dns.TypeCNAME: func(c *Client) (int, bool, error) {
			a, err := c.CNAME(t.Context(), "mx.test")
			return len(a.Records), a.Secure, err
		},
		dns.TypeA: func(c *Client) (int, bool, error) {
			a, err := c.Addresses(t.Context(), addr.MustHost("mx.test"))
			return len(a.Records), a.Secure, err
		},
	}
	tests := map[string]struct {
		qtype uint16 // asked for
		data  []byte
		ok    bool
		rr    uint16 // in the answer; 0: what was asked for
	}{
		"a TLSA record of two octets fails the lookup":                    {dns.TypeTLSA, []byte{3, 1}, false, 0},
		"an empty TLSA record fails the lookup":                           {dns.TypeTLSA, nil, false, 0},
		"a TLSA record without data is a record, and the caller's matter": {dns.TypeTLSA, []byte{3, 1, 1}, true, 0},
		"an MX record without name fails the lookup":                      {dns.TypeMX, []byte{0, 10}, false, 0},
		"a null MX is whole":                                              {dns.TypeMX, []byte{0, 0, 0}, true, 0},
		"an empty CNAME record fails the lookup":                          {dns.TypeCNAME, nil, false, 0},
		"an empty A record fails the lookup":                              {dns.TypeA, nil, false, 0},
		"an empty CNAME record on the way fails the lookup":               {dns.TypeMX, nil, false, dns.TypeCNAME},
		"an A record of three octets fails the lookup":                    {dns.TypeA, []byte{192, 0, 2}, false, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			s.handle(func(_ string, q *dns.Msg) [][]byte {
				m := new(dns.Msg)
				m.SetReply(q)
				m.AuthenticatedData = true
				m.Answer = []dns.RR{&dns.RFC3597{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: cmp.Or(tt.rr, tt.qtype), Class: dns.ClassINET, Ttl: 300},
				}}
				b := packed(m)
				b = slices.Concat(b[:len(b)-2], []byte{0, byte(len(tt.data))}, tt.data)
				return [][]byte{b}
			})
			n, secure, err := ask[tt.qtype](newClient(t, Options{NoIPv6: true}, s))
			if tt.ok {
				if err != nil || n != 1 || !secure {
					t.Errorf("%d records, secure %v, %v", n, secure, err)
				}
				return
			}
			wantFailed(t, err)
			if n != 0 || secure || s.total() != 1 {
				t.Errorf("%d records beside the error, secure %v, %d queries", n, secure, s.total())
			}
		})
	}
}
