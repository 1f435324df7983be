package lab

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
)

// records is the connection below TLS. It hands out one TLS record at a time,
// so that what has arrived after it can be told from what has been read.
type records struct {
	*net.TCPConn
	in   *bufio.Reader
	left int // bytes of the record that has been begun
}

// newRecords goes on after what has been read of a connection already.
func newRecords(tcp *net.TCPConn, in *bufio.Reader) *records {
	early, _ := in.Peek(in.Buffered()) // what is buffered can be had
	rest := io.MultiReader(bytes.NewReader(bytes.Clone(early)), tcp)
	return &records{TCPConn: tcp, in: bufio.NewReaderSize(rest, 20<<10)}
}

func (r *records) Read(p []byte) (int, error) {
	if r.left == 0 {
		head, err := r.in.Peek(recordHeader)
		if err != nil {
			return r.in.Read(p) // what there is, or the error
		}
		r.left = recordHeader + int(binary.BigEndian.Uint16(head[3:]))
	}
	n, err := r.in.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

const (
	recordHeader = 5
	recordAlert  = 21
	bareAlert    = 2 + 1 + 16 // an alert in TLS 1.3: two bytes, their type, the tag
)

// pending reports whether a record with data has arrived. The alert that
// closes a connection is none.
func (r *records) pending() bool {
	if r.left > 0 {
		return true
	}
	head := make([]byte, recordHeader)
	if n := r.in.Buffered(); n > 0 {
		b, _ := r.in.Peek(min(n, recordHeader))
		head = head[:copy(head, b)]
	} else {
		head = head[:peek(r.TCPConn, head)]
	}
	if len(head) < recordHeader {
		return len(head) > 0
	}
	return head[0] != recordAlert && binary.BigEndian.Uint16(head[3:]) > bareAlert
}
