package delivery

import (
	"bytes"
	"crypto/tls"
	"errors"
	"slices"
	"strings"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
	"stsrelay/tlsrpt"
)

// Evidence is what one connection showed. It is kept with the connection, so
// that Judge can be asked again (ledger X-11).
type Evidence struct {
	Offered    bool                 // EHLO offered STARTTLS
	RequireTLS bool                 // EHLO over TLS offered REQUIRETLS
	TLSErr     error                // STARTTLS reply or handshake; nil with State set
	PKIXErr    error                // always computed when TLS is up, whether or not it is needed
	PKIXFor    addr.Host            // the name that PKIXErr speaks of; zero: nothing was verified
	DANEErr    error                // computed when the Decision has usable TLSA records
	DANEFor    []resolver.TLSA      // the records that DANEErr speaks of; empty: nothing was verified
	DANEName   addr.Host            // for which the host was authenticated; zero: by its very certificate, whatever its names
	State      *tls.ConnectionState // nil: no TLS
}

// A Verdict is what Judge makes of a Decision and the Evidence.
type Verdict struct {
	Proceed bool
	Redial  bool                  // TLS broke, nothing needs it: one more connection, in the clear
	Missing Requirement           // Need that was not met
	Err     *Error                // why not, when neither Proceed nor Redial
	Results []tlsrpt.PolicyResult // one per policy that applied (sts, tlsa): RFC 8460 reports them side by side
}

// errUnverified is what a check that was never made comes to. It is a fault of
// ours, so nobody is accused of it, and no mail goes by it.
var errUnverified = &certError{reason: LocalError, text: "this relay did not verify the connection for what is asked now"}

// Judge compares what a connection showed with what is needed of it. It is
// pure, and asked anew for each message on a kept connection: what counts is
// the Decision for that message and not the one for which the connection was
// opened. Nothing that a host shows helps it when the Decision skips it.
func (d Decision) Judge(e Evidence) Verdict {
	v := Verdict{Missing: d.Need &^ d.met(e), Results: d.results(e)}
	switch {
	case d.Skip != nil:
		v.Err, v.Results = d.Skip, d.SkipResults()
	case v.Missing != 0:
		v.Err = d.refusal(e, v.Missing)
	case e.broken():
		v.Redial = true
	default:
		v.Proceed = true
	}
	return v
}

// met is what the evidence shows, each thing only if it was looked at: under
// the name, and against the records, that the Decision speaks of.
func (d Decision) met(e Evidence) Requirement {
	if !e.encrypted() {
		return 0
	}
	met := TLS
	if d.pkixErr(e) == nil {
		met |= PKIX
	}
	if d.daneErr(e) == nil {
		met |= DANE
	}
	if e.RequireTLS {
		met |= RequireTLS
	}
	return met
}

// encrypted reports whether TLS is up.
func (e Evidence) encrypted() bool { return e.State != nil && e.TLSErr == nil }

// broken reports whether an attempt at TLS spoiled the connection. After a
// server that offers nothing, or refuses by a reply, it is as good as before.
func (e Evidence) broken() bool {
	var refused *startTLSRefused
	return e.TLSErr != nil && !errors.Is(e.TLSErr, errNotOffered) && !errors.Is(e.TLSErr, errInClear) && !errors.As(e.TLSErr, &refused)
}

// pkixErr is what is wrong with the certificate for the MX name (RFC 8461,
// Section 4.2).
func (d Decision) pkixErr(e Evidence) error {
	if e.PKIXErr == nil && (e.PKIXFor.IsZero() || e.PKIXFor != d.Facts.MX) {
		return errUnverified
	}
	return e.PKIXErr
}

// daneErr is what is wrong with the certificate by the TLSA records (RFC 7672,
// Section 3). A name that is good for one domain may not be for another that
// shares the host.
func (d Decision) daneErr(e Evidence) error {
	switch {
	case e.DANEErr != nil:
		return e.DANEErr
	case len(e.DANEFor) == 0, !slices.EqualFunc(e.DANEFor, d.Facts.Records, sameTLSA):
		return errUnverified
	case !e.DANEName.IsZero() && !slices.Contains(d.Facts.Names, e.DANEName):
		return errUnverified
	}
	return nil
}

func sameTLSA(a, b resolver.TLSA) bool {
	return a.Usage == b.Usage && a.Selector == b.Selector && a.Matching == b.Matching && bytes.Equal(a.Data, b.Data)
}

// tlsErr is why there is no TLS.
func (e Evidence) tlsErr() error {
	if e.TLSErr == nil {
		return errNotOffered
	}
	return e.TLSErr
}

// refusal explains what is missing. The most basic thing speaks for all; that
// REQUIRETLS is not offered comes last, for alone of all it is final (ledger
// RTLS-4.2.1-04).
func (d Decision) refusal(e Evidence, missing Requirement) *Error {
	switch {
	case missing&TLS != 0:
		return d.withoutTLS(e)
	case missing&DANE != 0:
		err, reason := d.daneErr(e), DANEMismatch
		if errors.Is(err, errUnverified) {
			reason = LocalError
		}
		return d.refuse(DANE, reason, err)
	case missing&PKIX != 0:
		err := d.pkixErr(e)
		_, reason, _ := classify(err)
		return d.refuse(PKIX, reason, err)
	}
	return NewError(StagePolicy, RequireTLSMissing, d.Facts.MX, "the message asks for REQUIRETLS and "+d.host()+" does not offer it")
}

// withoutTLS is a refusal for want of encryption. A host without STARTTLS lacks
// REQUIRETLS for certain, which is final where no policy promises that it will
// be offered another time (ledger RTLS-4.2.1-03, STS-5-05).
func (d Decision) withoutTLS(e Evidence) *Error {
	err := e.tlsErr()
	_, reason, _ := classify(err)
	if errors.Is(err, errNotOffered) && d.onlyRequireTLS() {
		reason = RequireTLSNoTLS
	}
	refusal := d.refuse(TLS, reason, err)
	refusal.Stage = StageTLS
	return refusal
}

// refuse is a refusal for want of one thing, whose authority is the first that
// needs it.
func (d Decision) refuse(missing Requirement, reason Reason, err error) *Error {
	var texts []string
	for _, e := range certErrors(err) {
		texts = append(texts, tlsrpt.Clean(e.Error()))
	}
	what := map[Requirement]string{TLS: "speak TLS", DANE: "show a certificate that matches its TLSA records", PKIX: "show a valid certificate for its name"}[missing]
	text := d.authority(missing) + " requires " + d.host() + " to " + what + ": " + strings.Join(texts, "; ")
	return NewError(StagePolicy, reason, d.Facts.MX, text).because(err)
}

// authority names whoever is the first to need r.
func (d Decision) authority(r Requirement) string {
	for _, c := range d.claims {
		if c.need&r == 0 {
			continue
		}
		switch c.by {
		case STSEnforce:
			return "the " + d.Facts.policyName()
		case DANEUsable, DANEUnusable:
			return "DANE (the TLSA records of " + d.Facts.TLSABase.String() + ")"
		case OperatorFloor:
			return "this relay's configuration"
		}
		return "the message's REQUIRETLS"
	}
	return "nothing"
}

// onlyRequireTLS reports whether the message alone needs TLS, which every claim
// does.
func (d Decision) onlyRequireTLS() bool {
	return !slices.ContainsFunc(d.claims, func(c claim) bool { return c.by != MessageRequire })
}

// host names the host in texts.
func (d Decision) host() string {
	if d.Facts.MX.IsZero() {
		return "the server"
	}
	return d.Facts.MX.String()
}
