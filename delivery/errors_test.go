package delivery

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"strconv"
	"strings"
	"testing"

	"stsrelay/internal/addr"
)

// declaredReasons reads the constants of type Reason from the source, so that
// none can be missing in the table.
func declaredReasons(t *testing.T) []Reason {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []Reason
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Reason" {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, Reason(s))
		}
		return true
	})
	return out
}

func TestReasonTable(t *testing.T) {
	declared := declaredReasons(t)
	if len(declared) < 30 {
		t.Fatalf("found %d constants only", len(declared))
	}
	t.Run("every constant has one row, in the same order", func(t *testing.T) {
		rows := Reasons()
		if len(rows) != len(declared) {
			t.Fatalf("%d rows for %d constants", len(rows), len(declared))
		}
		for i, r := range declared {
			if rows[i] != r {
				t.Errorf("row %d is %q and constant %d is %q", i, rows[i], i, r)
			}
		}
	})
	for _, r := range declared {
		t.Run("ESC-DEL-01 the classes of "+string(r)+" agree", func(t *testing.T) {
			i := r.Info()
			if i.Reason != r {
				t.Fatalf("row of %q", i.Reason)
			}
			checkInfo(t, i)
		})
	}
	t.Run("an unknown reason is our own fault", func(t *testing.T) {
		if got := Reason("no such reason").Info(); got.Reason != LocalError {
			t.Errorf("%+v", got)
		}
	})
}

func checkInfo(t *testing.T, i Info) {
	t.Helper()
	if i.Meaning == "" || strings.HasSuffix(i.Meaning, ".") || strings.HasSuffix(i.Owner, ".") {
		t.Errorf("means %q, the owner can %q", i.Meaning, i.Owner)
	}
	if i.Reason == RemoteReply {
		if i.Code != 0 || i.Enhanced != [3]int{} || i.Permanent {
			t.Errorf("has codes of its own: %+v", i)
		}
		return
	}
	class := 4
	if i.Permanent {
		class = 5
	}
	if i.Code/100 != class || i.Enhanced[0] != class || i.Code > 599 {
		t.Errorf("permanent is %v, code %d, enhanced %v", i.Permanent, i.Code, i.Enhanced)
	}
	if i.Expired == [3]int{} {
		return
	}
	if i.Permanent || i.Expired != [3]int{5, i.Enhanced[1], i.Enhanced[2]} {
		t.Errorf("%v ends in %v, which is not its twin", i.Enhanced, i.Expired)
	}
}

// The codes are in the ledger, and in other people's log parsers.
func TestReasonCodes(t *testing.T) {
	want := map[Reason]string{
		MXNotListed: "4.4.8", StartTLSMissing: "4.7.4", TLSFailed: "4.7.5", CertHostMismatch: "4.7.5", CertExpired: "4.7.5",
		CertNotTrusted: "4.7.5", DANEMismatch: "4.7.5", DANERequired: "4.7.5", TLSALookupFailed: "4.4.3", NotValidating: "4.4.3", DiscoveryFailed: "4.4.3",
		RequireTLSMissing: "5.7.30", RequireTLSNoTLS: "5.7.10", RequireTLSUnknown: "4.7.10", DNSFailed: "4.4.3", DNSBogus: "4.4.3",
		NoSuchDomain: "5.1.2", NullMX: "5.1.10", NoAddress: "5.4.4", MailLoop: "5.4.6", ForbiddenAddress: "4.4.4", ConnectFailed: "4.4.1",
		ConnectionLost: "4.4.2", TimedOut: "4.4.2", ProtocolError: "4.5.0", RemoteReply: "0.0.0", MessageTooBig: "5.3.4",
		EightBitUnsupported: "5.6.3", UTF8Unsupported: "5.6.7", LocalError: "4.3.0", Expired: "4.4.7", OperatorBounce: "5.7.0",
	}
	for _, r := range Reasons() {
		t.Run("ESC-DEL-01 STS-5.1-05 RTLS-4.2.1-03 the code of "+string(r), func(t *testing.T) {
			if got := enhancedText(r.Info().Enhanced); got != want[r] {
				t.Errorf("%s, want %s", got, want[r])
			}
		})
	}
}

func TestAtExpiry(t *testing.T) {
	mx := addr.MustHost("mx.example.com")
	tests := []struct {
		name     string
		err      *Error
		code     int
		enhanced [3]int
	}{
		{"STS-5.1-05 a host that is not listed ends in 5.4.8", NewError(StagePlan, MXNotListed, mx, "x"), 550, [3]int{5, 4, 8}},
		{"STS-5.1-05 missing STARTTLS ends in 5.7.4", NewError(StageTLS, StartTLSMissing, mx, "x"), 550, [3]int{5, 7, 4}},
		{"STS-5.1-05 a certificate ends in 5.7.5", NewError(StagePolicy, CertExpired, mx, "x"), 550, [3]int{5, 7, 5}},
		{"DANE ends in 5.7.5", NewError(StagePolicy, DANEMismatch, mx, "x"), 550, [3]int{5, 7, 5}},
		{"REQUIRETLS in doubt ends in 5.7.10", NewError(StagePlan, RequireTLSUnknown, mx, "x"), 550, [3]int{5, 7, 10}},
		{"DNS keeps its code", NewError(StagePlan, DNSFailed, mx, "x"), 451, [3]int{4, 4, 3}},
		{"what the remote said stays", replyError(StageRcpt, mx, "192.0.2.1:25", 450, [3]int{4, 2, 1}, "later"), 450, [3]int{4, 2, 1}},
		{"what is permanent stays", NewError(StagePlan, NullMX, mx, "x"), 556, [3]int{5, 1, 10}},
		{"without any attempt it is 4.4.7", nil, 451, [3]int{4, 4, 7}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.err.AtExpiry()
			if got.Code != tt.code || got.Enhanced != tt.enhanced || got.Permanent != (tt.enhanced[0] == 5) {
				t.Errorf("%+v", got)
			}
			if tt.err != nil && (got.Text != tt.err.Text || got.MX != mx || got.Reason != tt.err.Reason || got.Stage != tt.err.Stage) {
				t.Errorf("lost what it was: %+v", got)
			}
		})
	}
	t.Run("the error itself is left as it is", func(t *testing.T) {
		e := NewError(StagePlan, MXNotListed, mx, "x")
		e.AtExpiry()
		if e.Permanent || e.Code != 451 {
			t.Errorf("%+v", e)
		}
	})
}

func TestReplyError(t *testing.T) {
	mx := addr.MustHost("mx.example.com")
	tests := []struct {
		name     string
		code     int
		enhanced [3]int
		want     Error
	}{
		{"a 5yz is permanent", 550, [3]int{5, 1, 1}, Error{Reason: RemoteReply, Permanent: true, Code: 550, Enhanced: [3]int{5, 1, 1}, Remote: true, Text: "so there"}},
		{"a 4yz is temporary", 450, [3]int{4, 2, 0}, Error{Reason: RemoteReply, Code: 450, Enhanced: [3]int{4, 2, 0}, Remote: true, Text: "so there"}},
		{"an enhanced code of another class counts as none", 450, [3]int{5, 1, 1}, Error{Reason: RemoteReply, Code: 450, Enhanced: [3]int{4, 0, 0}, Remote: true, Text: "so there"}},
		{"none is class.0.0", 554, [3]int{}, Error{Reason: RemoteReply, Permanent: true, Code: 554, Enhanced: [3]int{5, 0, 0}, Remote: true, Text: "so there"}},
		{"a code that refuses nothing is a protocol error", 354, [3]int{}, Error{Reason: ProtocolError, Code: 451, Enhanced: [3]int{4, 5, 0}, RFC: "RFC 5321, Section 4.2", Text: "the server answered 354 where that means nothing: so there"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			want.Stage, want.MX, want.Addr = StageRcpt, mx, "192.0.2.1:25"
			if got := replyError(StageRcpt, mx, "192.0.2.1:25", tt.code, tt.enhanced, "so there"); *got != want {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

func TestError(t *testing.T) {
	mx := addr.MustHost("mx.example.com")
	t.Run("it names reason and host", func(t *testing.T) {
		if got := NewError(StageConnect, ConnectFailed, mx, "refused").Error(); got != "connect-failed: mx.example.com: refused" {
			t.Error(got)
		}
		if got := NewError(StagePlan, NullMX, addr.Host{}, "takes no mail").Error(); got != "null-mx: takes no mail" {
			t.Error(got)
		}
	})
	t.Run("a host that the text names is not named twice", func(t *testing.T) {
		if got := NewError(StagePlan, NoAddress, mx, "mx.example.com has no address").Error(); got != "no-address: mx.example.com has no address" {
			t.Error(got)
		}
	})
	t.Run("the cause can be found", func(t *testing.T) {
		if err := NewError(StageConnect, ConnectFailed, mx, "refused").because(io.EOF); !errors.Is(err, io.EOF) {
			t.Error("lost")
		}
	})
	t.Run("the destination is to blame before MAIL, and by 421", func(t *testing.T) {
		tests := map[*Error]bool{
			NewError(StageConnect, ConnectFailed, mx, ""):                  true,
			NewError(StagePolicy, CertExpired, mx, ""):                     true,
			replyError(StageMail, mx, "", 450, [3]int{}, ""):               false,
			replyError(StageMail, mx, "", 421, [3]int{}, ""):               true,
			NewError(StagePolicy, RequireTLSMissing, mx, ""):               false,
			NewError(StageTLS, RequireTLSNoTLS, mx, ""):                    false,
			NewError(StagePlan, RequireTLSUnknown, mx, ""):                 false,
			replyError(StageContent, mx, "", 550, [3]int{5, 7, 1}, "spam"): false,
		}
		for e, want := range tests {
			if e.Destination() != want {
				t.Errorf("%v: %v", e, !want)
			}
		}
	})
	t.Run("every stage has a word", func(t *testing.T) {
		seen := map[string]bool{}
		for s := StagePlan; s <= StageContent; s++ {
			if w := s.String(); w == "unknown" || seen[w] {
				t.Errorf("stage %d is %q", s, w)
			}
			seen[s.String()] = true
		}
		if got := (StageContent + 1).String(); got != "unknown" {
			t.Error(got)
		}
	})
}
