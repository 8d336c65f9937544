// Package download gets files from web servers: over TLS, or without it from
// this host alone. What comes is the server's to say; who calls verifies it.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/streams"
)

const (
	// stall is how long a server may send nothing.
	stall = time.Minute
	// attempts is how often a download that breaks off is taken up again
	// without having got further.
	attempts     = 3
	maxRedirects = 10
)

// client does not decompress: what is wanted are the bytes of the file.
func client(insecure bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // its documented type
	transport.DisableCompression = true
	transport.ResponseHeaderTimeout = stall
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(request *http.Request, via []*http.Request) error {
			if len(via) >= maxRedirects {
				return errors.New("it leads from one address to another without an end")
			}
			return allowed(request.URL, insecure)
		},
	}
}

// allowed says what is wrong with an address.
func allowed(address *url.URL, insecure bool) error {
	switch {
	case address.Host == "":
	case address.Scheme == "https":
		return nil
	case address.Scheme == "http" && (insecure || isLoopback(address.Hostname())):
		return nil
	case address.Scheme == "http":
		return &api.Error{Kind: api.KindState, Message: address.Host + " would have to be spoken to without TLS", Hint: "--insecure allows it"}
	}
	return &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("%q is not an https URL", Redacted(address))}
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// Redacted is a URL without what may be a secret: a password, or the query of a
// URL that is signed.
func Redacted(address *url.URL) string {
	shown := *address
	shown.RawQuery, shown.ForceQuery, shown.Fragment, shown.RawFragment = "", false, "", ""
	return shown.Redacted()
}

// Open begins to download a file, and returns it with its length, or -1 if the
// server does not say that. A connection that breaks is taken up again where
// that can be done; one over which nothing comes for a minute is given up. A
// file that is not there is [fs.ErrNotExist].
func Open(ctx context.Context, location string, insecure bool) (io.ReadCloser, int64, error) {
	address, err := url.Parse(location)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok { // which shows all of it
			err = failed.Err
		}
		return nil, 0, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("it is no URL: %v", err)}
	}
	if err := allowed(address, insecure); err != nil {
		return nil, 0, err
	}
	f := &file{ctx: ctx, client: client(insecure), address: address.String(), shown: Redacted(address), length: -1}
	if err := f.connect(); err != nil { //nolint:contextcheck // it is in f, for later attempts
		return nil, 0, err
	}
	return f, f.length, nil
}

// Read downloads a file of at most limit bytes.
func Read(ctx context.Context, location string, insecure bool, limit int64) ([]byte, error) {
	f, _, err := Open(ctx, location, insecure)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return streams.ReadAll(f, limit)
}

// file is a file of a server that is being downloaded.
type file struct {
	ctx     context.Context
	client  *http.Client
	address string
	shown   string // the address in errors
	length  int64  // -1 if it is not known

	offset int64
	// version is what the server calls this version of the file, if it does.
	version string
	failed  int // attempts since the last byte
	body    io.ReadCloser
	cancel  context.CancelFunc
	alarm   *time.Timer
}

// connect asks for the file, from offset on.
func (f *file) connect() error {
	ctx, cancel := context.WithCancel(f.ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.address, nil)
	if err != nil {
		cancel()
		return err
	}
	if f.offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.offset))
		if f.version != "" {
			request.Header.Set("If-Range", f.version)
		}
	}
	response, err := f.client.Do(request)
	if err != nil {
		cancel()
		if failed, ok := errors.AsType[*url.Error](err); ok {
			if address, err := url.Parse(failed.URL); err == nil { // where redirections have led to
				failed.URL = Redacted(address)
			}
		}
		return err
	}
	if err := f.begin(response); err != nil {
		cancel()
		return errors.Join(err, response.Body.Close())
	}
	f.body, f.cancel, f.alarm = response.Body, cancel, time.AfterFunc(stall, cancel)
	return nil
}

// begin looks at the head of an answer.
func (f *file) begin(response *http.Response) error {
	switch {
	case f.offset > 0:
		from, _, ok := strings.Cut(strings.TrimPrefix(response.Header.Get("Content-Range"), "bytes "), "-")
		if response.StatusCode != http.StatusPartialContent || !ok || from != strconv.FormatInt(f.offset, 10) {
			return fmt.Errorf("%q broke off, and the server does not go on from there", f.shown)
		}
	case response.StatusCode == http.StatusOK:
		f.length = response.ContentLength
		if f.version = response.Header.Get("ETag"); strings.HasPrefix(f.version, "W/") || f.version == "" {
			f.version = response.Header.Get("Last-Modified")
		}
	case response.StatusCode == http.StatusNotFound, response.StatusCode == http.StatusGone:
		return fmt.Errorf("%q: %w", f.shown, fs.ErrNotExist)
	default:
		return fmt.Errorf("%q: the server says %s", f.shown, response.Status)
	}
	return nil
}

func (f *file) Read(p []byte) (int, error) {
	for {
		f.alarm.Reset(stall)
		n, err := f.body.Read(p)
		f.alarm.Stop() // who reads may take their time
		f.offset += int64(n)
		switch {
		case n > 0: // an error comes again
			f.failed = 0
			return n, nil
		case err == nil || errors.Is(err, io.EOF):
			return 0, err
		case f.ctx.Err() != nil:
			return 0, f.ctx.Err()
		}
		if err := f.reconnect(err); err != nil {
			return 0, err
		}
	}
}

func (f *file) reconnect(cause error) error {
	_ = f.Close() // what it could say, cause does
	for {
		if f.failed++; f.failed > attempts {
			return fmt.Errorf("%q broke off: %w", f.shown, cause)
		}
		err := f.connect()
		if _, ok := errors.AsType[net.Error](err); !ok {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
	}
}

func (f *file) Close() error {
	f.alarm.Stop()
	f.cancel()
	defer f.client.CloseIdleConnections()
	return f.body.Close()
}
