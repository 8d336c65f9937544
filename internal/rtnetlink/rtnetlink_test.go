package rtnetlink

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDo(t *testing.T) {
	t.Parallel()
	lo := Request{Type: unix.RTM_GETLINK, Body: Attribute(Link(0, 0, 0), unix.IFLA_IFNAME, Text("lo"))}
	answers, err := Do(lo, lo)
	if err != nil || len(answers) != 2 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	if index := binary.NativeEndian.Uint32(answers[0][4:]); index == 0 {
		t.Error("lo has no number")
	}
	none := Request{Type: unix.RTM_GETLINK, Body: Attribute(Link(0, 0, 0), unix.IFLA_IFNAME, Text("no such device"))}
	answers, err = Do(none, lo)
	if !errors.Is(err, unix.ENODEV) || len(answers) != 1 {
		t.Errorf("of a device that is not there: %d answers, %v", len(answers), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})
	f.Add([]byte{17, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		messages, err := parse(data)
		total := 0
		for _, m := range messages {
			total += unix.SizeofNlMsghdr + len(m.body)
		}
		if err == nil && total > len(data) {
			t.Errorf("%x became %d bytes of messages", data, total)
		}
	})
}
