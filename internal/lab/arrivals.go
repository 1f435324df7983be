package lab

import (
	"slices"
	"strings"
)

// MXHosts returns the MX hosts, in the order in which they were added.
func (w *World) MXHosts() []*MXHost {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.hosts)
}

// Policies returns the policy hosts, in the order in which they were added.
func (w *World) Policies() []*PolicyHost {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.policies)
}

// MX finds an MX host by its name. It panics if there is none.
func (w *World) MX(name string) *MXHost {
	for _, h := range w.MXHosts() {
		if strings.EqualFold(h.Name(), name) {
			return h
		}
	}
	panic("lab: there is no MX host " + name)
}

// Policy finds a policy host by its domain. It panics if there is none.
func (w *World) Policy(domain string) *PolicyHost {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.policies {
		if strings.EqualFold(p.domain, domain) {
			return p
		}
	}
	panic("lab: there is no policy host for " + domain)
}

// An Arrival is a message that an MX host took.
type Arrival struct {
	Host string
	Received
}

// Arrivals returns the messages that any MX host took for a recipient in
// domain.
func (w *World) Arrivals(domain string) (list []Arrival) {
	for _, h := range w.MXHosts() {
		for _, m := range h.Messages() {
			if slices.ContainsFunc(m.To, func(to string) bool { return within(to, domain) }) {
				list = append(list, Arrival{h.Name(), m})
			}
		}
	}
	return list
}

// Told returns the names of the MX hosts to which a client named a recipient
// in domain, whether they took it or not. A host that must not get a message
// must not be told of it either.
func (w *World) Told(domain string) (list []string) {
	for _, h := range w.MXHosts() {
		if slices.ContainsFunc(h.Commands(), func(line string) bool {
			p := path(line)
			return len(line) > 4 && strings.EqualFold(line[:4], "RCPT") && p != nil && within(*p, domain)
		}) {
			list = append(list, h.Name())
		}
	}
	return list
}

// within reports whether an address is in domain.
func within(address, domain string) bool {
	at := strings.LastIndexByte(address, '@')
	return at >= 0 && strings.EqualFold(address[at+1:], domain)
}
