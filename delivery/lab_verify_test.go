package delivery

import (
	"crypto/tls"
	"testing"

	"stsrelay/internal/lab"
	"stsrelay/tlsrpt"
)

// Every kind of certificate that the lab's hosts can have, through a real
// handshake, the evidence and the verdict.
func TestLabCertificates(t *testing.T) {
	ca, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		kind   lab.CertKind
		want   string // goes, or the Reason
		result tlsrpt.Result
	}{
		{"STS-4.2-01 from a trusted root", lab.Good, goes, ""},
		{"STS-4.2-01 over an intermediate that is sent", lab.WithIntermediate, goes, ""},
		{"STS-4.2-04 for all names of the parent", lab.Wildcard, goes, ""},
		{"STS-4.2-01 RPT-4.3-04 over an intermediate that is not sent", lab.MissingIntermediate, string(CertNotTrusted), tlsrpt.CertificateNotTrusted},
		{"STS-4.2-01 RPT-4.3-03 expired", lab.Expired, string(CertExpired), tlsrpt.CertificateExpired},
		{"STS-4.2-01 RPT-4.3-03 not yet valid", lab.NotYetValid, string(CertNotTrusted), tlsrpt.CertificateNotTrusted},
		{"STS-4.2-01 RPT-4.3-04 self-signed", lab.SelfSigned, string(CertNotTrusted), tlsrpt.CertificateNotTrusted},
		{"STS-4.2-01 RPT-4.3-04 from an unknown root", lab.UntrustedCA, string(CertNotTrusted), tlsrpt.CertificateNotTrusted},
		{"STS-4.2-02 RPT-4.3-02 for another name", lab.WrongName, string(CertHostMismatch), tlsrpt.CertificateHostMismatch},
		{"STS-4.2-02 RPT-4.3-02 the name as common name only", lab.CNOnly, string(CertHostMismatch), tlsrpt.CertificateHostMismatch},
		{"for clients only", lab.ClientOnly, string(CertNotTrusted), tlsrpt.CertificateNotTrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := handshakingPeer(t, &tls.Config{Certificates: []tls.Certificate{*ca.Certificate(tt.kind, listedMX.String())}})
			d := Decide(facts(enforce))
			e, err := p.handshake(t, d, ca.Roots())
			if err != nil {
				t.Fatal(err)
			}
			v := d.Judge(e)
			if verdictText(v) != tt.want {
				t.Errorf("%s: %v", verdictText(v), v.Err)
			}
			if len(v.Results) != 1 || len(v.Results[0].Failures) > 1 || len(v.Results[0].Failures) == 0 != (tt.result == "") {
				t.Fatalf("results %+v", v.Results)
			}
			if tt.result != "" && v.Results[0].Failures[0].Result != tt.result {
				t.Errorf("reported as %q", v.Results[0].Failures[0])
			}
			if v := Decide(facts(testingMode)).Judge(e); !v.Proceed {
				t.Errorf("testing stops it: %+v", v)
			}
		})
	}
}
