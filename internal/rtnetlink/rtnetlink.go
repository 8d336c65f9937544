// Package rtnetlink asks the kernel about its network devices and routes, and
// changes them: rtnetlink(7), as much of it as the processes of a VM need. A
// library that knows all of it would take longer to start than they do.
package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Request is one message to the kernel.
type Request struct {
	Type  uint16
	Flags uint16 // beside those that all requests have
	// Body is what Type asks for, such as [Link], and attributes behind it.
	Body []byte
}

// Link is the head of a request about a network device.
func Link(index, flags, change uint32) []byte {
	body := make([]byte, 4, 128) // any family, any type
	for _, word := range []uint32{index, flags, change} {
		body = binary.NativeEndian.AppendUint32(body, word)
	}
	return body
}

// Attribute adds an attribute to a body.
func Attribute(body []byte, kind uint16, value []byte) []byte {
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofRtAttr+len(value)))
	body = binary.NativeEndian.AppendUint16(body, kind)
	return pad(append(body, value...))
}

// Number is a value of an [Attribute].
func Number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// Text is a value of an [Attribute].
func Text(s string) []byte { return append([]byte(s), 0) }

// pad makes the next thing begin where the kernel looks for it.
func pad(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// Do sends requests, which the kernel goes through in order, and returns the
// bodies of what it answered beside that it has. It goes on after one that
// fails, and all errors are returned.
func Do(requests ...Request) (answers [][]byte, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot talk to the kernel: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var all []byte
	for i, request := range requests {
		all = binary.NativeEndian.AppendUint32(all, uint32(unix.SizeofNlMsghdr+len(request.Body)))
		all = binary.NativeEndian.AppendUint16(all, request.Type)
		all = binary.NativeEndian.AppendUint16(all, unix.NLM_F_REQUEST|unix.NLM_F_ACK|request.Flags)
		all = binary.NativeEndian.AppendUint32(all, uint32(i)) // comes back with the answer
		all = binary.NativeEndian.AppendUint32(all, 0)         // from whom the kernel knows
		all = pad(append(all, request.Body...))
	}
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Sendto(fd, all, 0, kernel); err != nil {
		return nil, fmt.Errorf("cannot talk to the kernel: %w", err)
	}
	var failed []error
	const longest = 16 << 10 // what a request is about, with some to spare
	buffer := make([]byte, longest)
	for done := 0; done < len(requests); {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot talk to the kernel: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // not the kernel
		}
		messages, err := parse(buffer[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if m.kind != unix.NLMSG_ERROR {
				answers = append(answers, append([]byte(nil), m.body...))
				continue
			}
			done++
			if len(m.body) < 4 {
				return nil, errShort
			}
			if code := int32(binary.NativeEndian.Uint32(m.body)); code != 0 { // none: it is done
				failed = append(failed, unix.Errno(-code))
			}
		}
	}
	return answers, errors.Join(failed...)
}

var errShort = errors.New("cannot understand the kernel: a message is too short")

type message struct {
	kind uint16
	body []byte
}

// parse takes what came apart into messages.
func parse(data []byte) ([]message, error) {
	var messages []message
	for len(data) > 0 {
		if len(data) < unix.SizeofNlMsghdr {
			return nil, errShort
		}
		length := int(binary.NativeEndian.Uint32(data))
		if length < unix.SizeofNlMsghdr || length > len(data) {
			return nil, errShort
		}
		messages = append(messages, message{binary.NativeEndian.Uint16(data[4:]), data[unix.SizeofNlMsghdr:length]})
		data = data[min(len(data), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return messages, nil
}
