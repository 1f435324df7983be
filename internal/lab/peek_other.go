//go:build !unix

package lab

import "net"

// peek cannot look into the socket here: what clients send too early goes
// unnoticed unless it came together with what was read.
func peek(*net.TCPConn, []byte) int { return 0 }
