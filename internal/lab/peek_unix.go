//go:build unix

package lab

import (
	"net"
	"syscall"
)

// peek reads what has arrived on a connection, without waiting and without
// taking it away.
func peek(c *net.TCPConn, p []byte) (n int) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	err = rc.Control(func(fd uintptr) {
		n, _, _ = syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	if err != nil {
		return 0
	}
	return max(n, 0)
}
