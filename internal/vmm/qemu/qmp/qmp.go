// Package qmp talks to a running QEMU: its machine protocol, which is JSON
// objects, one a line, on a unix socket.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// maxLine bounds what QEMU may say in one line. Its longest answers
// (query-qmp-schema) have some 200 KiB.
const maxLine = 4 << 20

// Error is QEMU's refusal of a command.
type Error struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *Error) Error() string { return e.Description }

// Event is something QEMU tells without having been asked.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Client is one connection. QEMU serves one at a time, so hold it briefly. It
// is not safe for concurrent use.
type Client struct {
	conn    net.Conn
	lines   *bufio.Scanner
	lastID  uint64
	onEvent func(Event)
	// broken is why no further command can be sent: after an error in the
	// middle of an exchange the next answer could be that to an older command.
	broken error
}

// Dial connects to a socket and shakes hands. It waits, until ctx ends, while
// QEMU serves another client. Events are passed to onEvent, which may be nil,
// from within the methods of the client.
func Dial(ctx context.Context, path string, onEvent func(Event)) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to QEMU: %w", err)
	}
	client, err := New(ctx, conn, onEvent)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return client, nil
}

// New shakes hands on a connection, which belongs to the client if there is no
// error.
func New(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	c := &Client{conn: conn, lines: bufio.NewScanner(conn), onEvent: onEvent}
	c.lines.Buffer(nil, maxLine)
	err := c.within(ctx, func() error {
		greeting, err := c.read()
		if err == nil && greeting.Greeting == nil {
			err = errors.New("no greeting")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot talk to QEMU: %w", err)
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the connection. QEMU runs on.
func (c *Client) Close() error { return c.conn.Close() }

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is any line of QEMU's. Which members are there says what it is.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
	ID       *uint64         `json:"id"`
	Event
}

// Execute runs a command. Its arguments (nil for none) are encoded as JSON,
// and what it returns is decoded to result unless that is nil. The error is an
// [Error] if QEMU refused.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	if c.broken != nil {
		return fmt.Errorf("cannot run QEMU's %s: %w", command, c.broken)
	}
	c.lastID++
	line, err := json.Marshal(request{Execute: command, Arguments: arguments, ID: c.lastID})
	if err != nil {
		return fmt.Errorf("cannot encode QEMU's %s: %w", command, err)
	}
	var answer message
	err = c.within(ctx, func() error {
		if _, err := c.conn.Write(append(line, '\n')); err != nil {
			return err
		}
		for {
			if answer, err = c.read(); err != nil {
				return err
			}
			switch {
			case answer.Name != "":
				c.onEvent(answer.Event)
			case answer.ID != nil && *answer.ID == c.lastID:
				return nil
			case answer.Error != nil: // no id: it could not parse what we said
				return answer.Error
			default:
				return errors.New("an answer to nothing that was asked")
			}
		}
	})
	if err == nil && answer.Error == nil && answer.Return == nil {
		err = errors.New("an answer with neither result nor error")
	}
	if err != nil {
		c.broken = err
		return fmt.Errorf("cannot run QEMU's %s: %w", command, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("cannot run QEMU's %s: %w", command, answer.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Return, result); err != nil {
		return fmt.Errorf("cannot read the answer to QEMU's %s: %w", command, err)
	}
	return nil
}

func (c *Client) read() (message, error) {
	for c.lines.Scan() {
		if line := bytes.TrimSpace(c.lines.Bytes()); len(line) > 0 {
			return parse(line)
		}
	}
	if err := c.lines.Err(); err != nil {
		return message{}, err
	}
	return message{}, errors.New("it hung up")
}

func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("unexpected line %.80q: %w", line, err)
	}
	return m, nil
}

// within runs an exchange that ends when ctx does.
func (c *Client) within(ctx context.Context, exchange func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	err := exchange()
	if !stop() && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	if ctx.Err() != nil {
		// Too late to matter for this exchange, but the deadline is set, or
		// about to be, for good.
		c.broken = ctx.Err()
	}
	return err
}
