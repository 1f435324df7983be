package tlsrpt

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-message"
)

// The bounds of what is unpacked from one file: a report has some kilobytes, and
// what comes by mail may be a bomb.
const (
	maxUnpacked = 64 << 20 // octets at any depth
	maxDepth    = 5        // an mbox of messages with zip files of gzip files
	maxFound    = 10_000   // reports in one file
)

// Unpack finds the reports in a file, whatever they are packed in: JSON, gzip,
// zip, a mail message, an mbox. What it is is told by its content, for names are
// wrong as often as not. found hears of each report, or why something that
// looks like one cannot be read; it ends the search by false.
func Unpack(name string, r io.Reader, found func(Received, error) bool) {
	u := unpacker{found: found, left: maxUnpacked}
	b, err := u.read(r)
	if err != nil {
		found(Received{Source: name}, err)
		return
	}
	if u.unpack(name, b, maxDepth); u.count == 0 && !u.stopped {
		found(Received{Source: name}, fmt.Errorf("%w: nothing in it looks like one", ErrNotReport))
	}
}

type unpacker struct {
	found   func(Received, error) bool
	left    int64 // octets that may still be unpacked
	count   int   // of reports and failures
	stopped bool
}

var errTooMuch = errors.New("it unpacks to more than a report ever has")

// read reads all of r within what is left.
func (u *unpacker) read(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, u.left+1))
	if int64(len(b)) > u.left {
		return nil, errTooMuch
	}
	u.left -= int64(len(b))
	return b, err
}

func (u *unpacker) tell(source string, r Received, err error) {
	if u.stopped {
		return
	}
	r.Source = source
	u.count++
	u.stopped = !u.found(r, err) || u.count >= maxFound
}

func (u *unpacker) unpack(source string, b []byte, depth int) {
	start := bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\ufeff")), " \t\r\n")
	switch {
	case u.stopped:
	case depth == 0:
		u.tell(source, Received{}, errors.New("it is packed too deep"))
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		u.gunzip(source, b, depth)
	case bytes.HasPrefix(b, []byte("PK\x03\x04")):
		u.unzip(source, b, depth)
	case bytes.HasPrefix(start, []byte("{")):
		r, err := ParseReceived(start)
		u.tell(source, r, err)
	case bytes.HasPrefix(b, []byte("From ")):
		u.mbox(source, b, depth)
	default:
		u.message(source, b, depth)
	}
}

func (u *unpacker) gunzip(source string, b []byte, depth int) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		b, err = u.read(z)
	}
	if err != nil {
		u.tell(source, Received{}, fmt.Errorf("gzip: %w", err))
		return
	}
	u.unpack(source, b, depth-1)
}

func (u *unpacker) unzip(source string, b []byte, depth int) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		u.tell(source, Received{}, fmt.Errorf("zip: %w", err))
		return
	}
	for _, f := range z.File {
		if f.FileInfo().IsDir() || u.stopped {
			continue
		}
		name := source + ":" + Clean(f.Name)
		r, err := f.Open()
		if err == nil {
			var part []byte
			part, err = u.read(r)
			r.Close()
			if err == nil {
				u.unpack(name, part, depth-1)
				continue
			}
		}
		u.tell(name, Received{}, fmt.Errorf("zip: %w", err))
	}
}

// mbox takes messages apart that begin with a "From " line each.
func (u *unpacker) mbox(source string, b []byte, depth int) {
	n := 0
	var one bytes.Buffer
	flush := func() {
		if one.Len() > 0 {
			n++
			u.message(fmt.Sprintf("%s:%d", source, n), bytes.Clone(one.Bytes()), depth-1)
		}
		one.Reset()
	}
	empty := true // the line before was
	lines := bufio.NewReader(bytes.NewReader(b))
	for !u.stopped {
		line, err := lines.ReadBytes('\n')
		if empty && bytes.HasPrefix(line, []byte("From ")) {
			flush()
		} else {
			one.Write(line)
		}
		empty = len(bytes.TrimRight(line, "\r\n")) == 0
		if err != nil {
			break
		}
	}
	flush()
}

// message looks for reports in the parts of a mail message. What is no message
// has no part, and nothing is said of parts that are something else.
func (u *unpacker) message(source string, b []byte, depth int) {
	m, err := message.Read(bytes.NewReader(b))
	if m == nil || err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) {
		return
	}
	_ = m.Walk(func(_ []int, part *message.Entity, err error) error {
		if err != nil || u.stopped {
			return err
		}
		media, params, _ := part.Header.ContentType()
		if strings.HasPrefix(media, "multipart/") || media == "text/plain" || media == "text/html" {
			return nil
		}
		body, err := u.read(part.Body)
		if err != nil {
			u.tell(source, Received{}, err)
			return nil
		}
		if !looksPacked(body) && !strings.Contains(media, "tlsrpt") {
			return nil
		}
		name := params["name"]
		if _, p, err := part.Header.ContentDisposition(); err == nil && p["filename"] != "" {
			name = p["filename"]
		}
		if name = Clean(name); name != "" {
			name = ":" + name
		}
		u.unpack(source+name, body, depth-1)
		return nil
	})
}

func looksPacked(b []byte) bool {
	return bytes.HasPrefix(b, []byte{0x1f, 0x8b}) || bytes.HasPrefix(b, []byte("PK\x03\x04")) || bytes.HasPrefix(bytes.TrimLeft(b, "\ufeff \t\r\n"), []byte("{"))
}
