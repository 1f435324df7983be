package delivery

// Info is what one Reason means. Its class appears in three places, Permanent,
// Code and Enhanced, and a test holds them together (ledger ESC-DEL-01).
type Info struct {
	Reason    Reason
	Permanent bool
	Code      int    // SMTP reply code; 0 for RemoteReply, which has the remote's
	Enhanced  [3]int // enhanced status code (RFC 3463, RFC 5248)
	Expired   [3]int // the 5.x twin in which a refusal by policy ends at expiry; zero for all others
	RFC       string // "RFC 8461, Section 4.1"; "" where none asks for it
	Meaning   string // for people: a clause without full stop
	Owner     string // what the owner of the recipient domain can do, "" if nothing
}

// Info returns what the table says of r. A Reason that is not in it is a fault
// of ours.
func (r Reason) Info() Info {
	for _, i := range reasons {
		if i.Reason == r {
			return i
		}
	}
	return LocalError.Info()
}

// Reasons lists every Reason, in the order of the constants.
func Reasons() []Reason {
	out := make([]Reason, len(reasons))
	for i, info := range reasons {
		out[i] = info.Reason
	}
	return out
}

// reasons is the one table of what a failure is called on the wire. The codes
// of policy refusals are those of Exchange Online where it has some (ledger
// STS-5.1-05). Our own temporary codes are all 451: the enhanced code and the
// text tell them apart.
var reasons = []Info{
	{Reason: MXNotListed, Code: 451, Enhanced: [3]int{4, 4, 8}, Expired: [3]int{5, 4, 8}, RFC: "RFC 8461, Section 4.1",
		Meaning: "the MTA-STS policy of the domain does not name this MX host",
		Owner:   "add the host to the mx lines of the policy file and change the id in the _mta-sts TXT record, or take the host out of the MX records"},
	{Reason: StartTLSMissing, Code: 451, Enhanced: [3]int{4, 7, 4}, Expired: [3]int{5, 7, 4}, RFC: "RFC 8461, Section 5; RFC 7672, Section 2.2",
		Meaning: "encryption is required and the MX host does not offer STARTTLS, or refuses it",
		Owner:   "switch STARTTLS on at the MX host, and look for a firewall that removes it"},
	{Reason: TLSFailed, Code: 451, Enhanced: [3]int{4, 7, 5}, Expired: [3]int{5, 7, 5}, RFC: "RFC 8461, Section 5; RFC 7672, Section 2.2",
		Meaning: "encryption is required and the TLS handshake with the MX host failed",
		Owner:   "make the MX host speak TLS 1.2 or 1.3 with an ECDHE cipher suite, and read its log of this time"},
	{Reason: CertHostMismatch, Code: 451, Enhanced: [3]int{4, 7, 5}, Expired: [3]int{5, 7, 5}, RFC: "RFC 8461, Section 4.2",
		Meaning: "the certificate of the MX host is for other names",
		Owner:   "give the MX host a certificate whose subject alternative names include the name in the MX record"},
	{Reason: CertExpired, Code: 451, Enhanced: [3]int{4, 7, 5}, Expired: [3]int{5, 7, 5}, RFC: "RFC 8461, Section 4.2",
		Meaning: "the certificate of the MX host has expired",
		Owner:   "renew the certificate of the MX host and reload the mail server"},
	{Reason: CertNotTrusted, Code: 451, Enhanced: [3]int{4, 7, 5}, Expired: [3]int{5, 7, 5}, RFC: "RFC 8461, Section 4.2",
		Meaning: "the certificate of the MX host is not trusted",
		Owner:   "give the MX host a certificate of a public authority and let it send the intermediate certificates too"},
	{Reason: DANEMismatch, Code: 451, Enhanced: [3]int{4, 7, 5}, Expired: [3]int{5, 7, 5}, RFC: "RFC 7672, Section 2.2",
		Meaning: "the certificate of the MX host does not pass its TLSA records (DANE)",
		Owner:   "publish a TLSA record for the certificate in use, and for the next one before it is put to use"},
	{Reason: DANERequired, Code: 451, Enhanced: [3]int{4, 7, 5}, Expired: [3]int{5, 7, 5}, RFC: "RFC 7672, Section 6",
		Meaning: "this relay demands DANE for the destination, and the MX host has no usable, DNSSEC-signed TLSA record",
		Owner:   "sign the zones of the domain and of its MX hosts and publish TLSA records of usage 2 or 3"},
	{Reason: TLSALookupFailed, Code: 451, Enhanced: [3]int{4, 4, 3}, RFC: "RFC 7672, Section 2.1.2",
		Meaning: "the TLSA records of the MX host could not be looked up",
		Owner:   "make the name servers of the MX host answer TLSA questions"},
	{Reason: NotValidating, Code: 451, Enhanced: [3]int{4, 4, 3}, RFC: "RFC 7672, Section 2.1.1",
		Meaning: "this relay cannot check DNSSEC now, and the MX host had signed TLSA records when it last could"},
	{Reason: DiscoveryFailed, Code: 451, Enhanced: [3]int{4, 4, 3}, RFC: "RFC 8461, Section 3.1",
		Meaning: "it could not be found out whether the domain has an MTA-STS policy",
		Owner:   "make the name servers of the domain answer TXT questions for _mta-sts"},
	{Reason: RequireTLSMissing, Permanent: true, Code: 550, Enhanced: [3]int{5, 7, 30}, RFC: "RFC 8689, Section 4.2.1",
		Meaning: "the message asks for REQUIRETLS and the MX host cannot promise it",
		Owner:   "run a mail server with REQUIRETLS, and publish an MTA-STS policy in enforce mode or sign the MX records"},
	{Reason: RequireTLSNoTLS, Permanent: true, Code: 550, Enhanced: [3]int{5, 7, 10}, RFC: "RFC 8689, Section 4.2.1",
		Meaning: "the message asks for REQUIRETLS and the MX host does not offer STARTTLS",
		Owner:   "switch STARTTLS and REQUIRETLS on at the MX host"},
	{Reason: RequireTLSUnknown, Code: 451, Enhanced: [3]int{4, 7, 10}, Expired: [3]int{5, 7, 10}, RFC: "RFC 8689, Section 4.2.1",
		Meaning: "the message asks for REQUIRETLS, and whether the name of the MX host is authentic cannot be told now",
		Owner:   "make the MTA-STS policy of the domain reachable"},
	{Reason: DNSFailed, Code: 451, Enhanced: [3]int{4, 4, 3}, RFC: "RFC 5321, Section 5.1",
		Meaning: "DNS gave no answer",
		Owner:   "make the name servers of the domain and of its MX hosts answer"},
	{Reason: DNSBogus, Code: 451, Enhanced: [3]int{4, 4, 3}, RFC: "RFC 7672, Section 2.1.2",
		Meaning: "what DNS answered is not what the owner signed",
		Owner:   "repair the DNSSEC signatures of the zone, or the DS record at its parent"},
	{Reason: NoSuchDomain, Permanent: true, Code: 550, Enhanced: [3]int{5, 1, 2}, RFC: "RFC 5321, Section 5.1",
		Meaning: "the domain does not exist"},
	{Reason: NullMX, Permanent: true, Code: 556, Enhanced: [3]int{5, 1, 10}, RFC: "RFC 7505, Section 3",
		Meaning: "the domain says that it takes no mail"},
	{Reason: NoAddress, Permanent: true, Code: 550, Enhanced: [3]int{5, 4, 4}, RFC: "RFC 5321, Section 5.1",
		Meaning: "no MX host of the domain has an address",
		Owner:   "give the names in the MX records A or AAAA records"},
	{Reason: MailLoop, Permanent: true, Code: 554, Enhanced: [3]int{5, 4, 6}, RFC: "RFC 5321, Section 5.1",
		Meaning: "the mail comes back to this relay",
		Owner:   "take this relay out of the MX records, or tell its operator to route the domain to your mail server"},
	{Reason: ForbiddenAddress, Code: 451, Enhanced: [3]int{4, 4, 4},
		Meaning: "DNS leads to addresses that are not public",
		Owner:   "publish public addresses for the MX hosts"},
	{Reason: ConnectFailed, Code: 451, Enhanced: [3]int{4, 4, 1}, RFC: "RFC 5321, Section 4.5.4.1",
		Meaning: "the MX host could not be reached",
		Owner:   "see that the mail server runs and that port 25 is open"},
	{Reason: ConnectionLost, Code: 451, Enhanced: [3]int{4, 4, 2}, RFC: "RFC 5321, Section 4.5.4.1",
		Meaning: "the connection to the MX host was lost"},
	{Reason: TimedOut, Code: 451, Enhanced: [3]int{4, 4, 2}, RFC: "RFC 5321, Section 4.5.3.2",
		Meaning: "the MX host did not answer in time"},
	{Reason: ProtocolError, Code: 451, Enhanced: [3]int{4, 5, 0}, RFC: "RFC 5321, Section 4.2",
		Meaning: "the MX host answered with something that is not SMTP"},
	{Reason: RemoteReply,
		Meaning: "the MX host refused"},
	{Reason: MessageTooBig, Permanent: true, Code: 552, Enhanced: [3]int{5, 3, 4}, RFC: "RFC 1870, Section 6",
		Meaning: "the message is larger than the MX host takes"},
	{Reason: EightBitUnsupported, Permanent: true, Code: 554, Enhanced: [3]int{5, 6, 3}, RFC: "RFC 6152, Section 3",
		Meaning: "the message has 8-bit content and the MX host takes only 7-bit"},
	{Reason: UTF8Unsupported, Permanent: true, Code: 553, Enhanced: [3]int{5, 6, 7}, RFC: "RFC 6531, Section 3.2",
		Meaning: "the message has international addresses or headers and the MX host does not take them"},
	{Reason: LocalError, Code: 451, Enhanced: [3]int{4, 3, 0},
		Meaning: "this relay has a fault of its own"},
	{Reason: Expired, Code: 451, Enhanced: [3]int{4, 4, 7}, RFC: "RFC 5321, Section 4.5.4.1",
		Meaning: "the message was in the queue for too long"},
	{Reason: OperatorBounce, Permanent: true, Code: 554, Enhanced: [3]int{5, 7, 0},
		Meaning: "the operator of this relay returned the message"},
}
