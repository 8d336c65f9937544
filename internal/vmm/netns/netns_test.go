package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"banger/internal/vmm/process"
)

// inNamespace is the argument that this test binary runs in a namespace with.
const inNamespace = "in-namespace"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == inNamespace {
		if err := look(); err != nil {
			fmt.Fprintln(os.Stdout, err)
		}
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // nothing to clean up
}

// look makes the devices and asks another library for them.
func look() error {
	if _, err := Setup(); err != nil {
		return err
	}
	joint, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	if snooping := joint.(*netlink.Bridge).MulticastSnooping; snooping == nil || *snooping {
		err = errors.Join(err, errors.New("the bridge snoops"))
	}
	for _, name := range []string{TAP, uplink} {
		link, linkErr := netlink.LinkByName(name)
		if linkErr != nil {
			return linkErr
		}
		port, portErr := netlink.LinkGetProtinfo(link)
		if portErr != nil {
			return portErr
		}
		if port.Learning {
			err = errors.Join(err, fmt.Errorf("%s learns", name))
		}
		if a := link.Attrs(); a.MTU != mtu || a.TxQLen != queue || a.MasterIndex != joint.Attrs().Index || a.RawFlags&1 == 0 {
			err = errors.Join(err, fmt.Errorf("%s is %+v", name, a))
		}
	}
	if a := joint.Attrs(); a.MTU != mtu || a.RawFlags&1 == 0 {
		err = errors.Join(err, fmt.Errorf("the bridge is %+v", a))
	}
	return err
}

func TestSetup(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	said, log, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	child, err := process.Start(process.Command{Path: self, Args: []string{inNamespace}, Dir: "/", Log: log, OwnNetwork: true})
	log.Close()
	if err != nil {
		t.Skipf("NOT TESTED: needs user namespaces: %v", err)
	}
	defer child.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(said); err != nil {
		t.Fatal(err)
	}
	if got.Len() > 0 {
		t.Error(got.String())
	}
}
