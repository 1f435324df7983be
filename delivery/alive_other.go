//go:build !unix

package delivery

// silent cannot look at the socket here: the next command tells.
func (c *conn) silent() bool { return c.r.Buffered() == 0 }
