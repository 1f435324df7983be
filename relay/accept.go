package relay

import (
	"fmt"
	"net"
	"net/netip"

	"stsrelay/internal/network"

	"github.com/emersion/go-smtp"
)

// mayRelay says whether a client may relay: only from the networks that are
// listed, and over a Unix socket, where the file system has said so. No list,
// nobody (RFC 5321, Section 7.9).
func mayRelay(from []netip.Prefix, client net.Addr) bool {
	if _, ok := client.(*net.UnixAddr); ok {
		return true
	}
	ip := clientIP(client)
	if !ip.IsValid() {
		return false
	}
	for _, p := range from {
		if network.Contains(p, ip) {
			return true
		}
	}
	return false
}

// clientIP is the address of a client, an IPv4 one in its own form; invalid for
// Unix sockets.
func clientIP(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// clientText is a client as people read it: "[192.0.2.1]", "a local program".
func clientText(a net.Addr) string {
	if ip := clientIP(a); ip.IsValid() {
		return "[" + ip.String() + "]"
	}
	return "a local program"
}

// maxRefusal keeps a reply line to 512 octets (RFC 5321, Section 4.5.3.1.5),
// whatever of the client's it repeats.
const maxRefusal = 490

func refusal(code int, enhanced smtp.EnhancedCode, format string, args ...any) *smtp.SMTPError {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxRefusal {
		text = text[:maxRefusal] + "..."
	}
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}
