package bridge

import (
	"context"
	"fmt"
	"os"

	"banger/internal/network/plan"
	"banger/internal/network/policy"
)

// Status is what there is of the network.
type Status struct {
	// SetUp says that a setup was made, and not taken down.
	SetUp  bool   `json:"set_up"`
	User   string `json:"user,omitempty"`
	Bridge string `json:"bridge,omitempty"`
	// Address is the bridge's, with its prefix length.
	Address string   `json:"address,omitempty"`
	TAPs    int      `json:"taps,omitempty"`
	InUse   []string `json:"in_use,omitempty"`
	// Policy is what guests reach beyond the internet.
	Policy policy.Policy `json:"policy"`
	// Boot says that systemd repeats it at boot.
	Boot bool `json:"boot"`
	// Problems are what keeps it from working.
	Problems []string `json:"problems,omitempty"`
}

// Look looks at what there is, and changes nothing. Only root sees the firewall.
func Look(ctx context.Context, h Host) (Status, error) {
	r, err := h.load()
	if err != nil || r == nil {
		return Status{}, err
	}
	s := Status{
		SetUp: true, User: r.User, Bridge: Name, Address: plan.WithLength(plan.Gateway).String(), TAPs: r.TAPs, Policy: r.Policy, Boot: r.Unit,
	}
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	if !r.Complete {
		problem("a setup or teardown did not get to its end")
	}
	links, _, err := named()
	if err != nil {
		return Status{}, err
	}
	taps := 0
	bridge := false
	for _, link := range links {
		switch {
		case !r.isOurs(link):
			problem("the link %s is not the one that was made", link.Attrs().Name)
		case link.Attrs().Name == Name:
			bridge = true
		default:
			taps++
			if inUse(link) {
				s.InUse = append(s.InUse, link.Attrs().Name)
			}
		}
	}
	if !bridge {
		problem("the bridge %s is not there", Name)
	}
	if taps < r.TAPs {
		problem("of %d TAP devices %d are there", r.TAPs, taps)
	}
	if forwarding, err := readSetting(forwardingPath); err != nil || forwarding != "1" {
		problem("the host does not forward packets")
	}
	if os.Geteuid() != 0 {
		return s, nil
	}
	if all, _, err := hasTables(ctx); err != nil {
		return Status{}, err
	} else if !all {
		problem("the firewall's tables of banger are not there: nothing holds guests back, and they do not reach the internet")
	}
	chain, err := blocker(ctx)
	if chain != "" {
		problem("%s", blocked(chain))
	}
	return s, err
}
