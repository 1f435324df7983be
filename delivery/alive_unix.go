//go:build unix

package delivery

import (
	"errors"
	"syscall"
)

// silent reports whether a kept connection still waits for us to speak. A
// server that has closed, or said 421, or sent a TLS alert while nobody
// listened has left something to read. When the socket cannot be asked the
// answer is yes, and the next command tells.
func (c *conn) silent() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	sc, ok := c.raw.(syscall.Conn)
	if !ok {
		return true
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	silent := false
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK)
	})
	return err == nil && silent
}
