package bridge

import (
	"fmt"
	"net/netip"
	"strings"
	"text/template"

	"banger/internal/network/plan"
	"banger/internal/network/policy"
)

// ruleset is what `nft -f` gets: it replaces the tables as one transaction. The
// senders are a table of their own, since only the family netdev sees ARP.
func ruleset(s Settings, attached []netip.Prefix) (string, error) {
	type guest struct{ TAP, MAC, Address string }
	data := struct {
		Table, Bridge, Network, Gateway string
		Port                            int
		Host                            bool
		Guests                          []guest
		Rules                           []string
	}{
		Table: table, Bridge: Name, Network: plan.Network.String(), Gateway: plan.Gateway.String(), Port: NamesPort, Host: s.Policy.Host,
	}
	for _, addr := range s.addresses() {
		data.Guests = append(data.Guests, guest{TAP(addr), plan.MAC(addr), addr.String()})
	}
	for _, rule := range s.Policy.Rules(plan.Network, attached) {
		// The host's own addresses do not get to the chain "route".
		if !rule.Host && rule.Prefix.Addr().Is4() {
			data.Rules = append(data.Rules, destination(rule))
		}
	}
	var text strings.Builder
	if err := template.Must(template.New("ruleset").Parse(rules)).Execute(&text, data); err != nil {
		return "", fmt.Errorf("cannot write the firewall rules: %w", err)
	}
	return text.String(), nil
}

func destination(rule policy.Rule) string {
	verdict := "goto refuse"
	if rule.Allow {
		verdict = "accept"
	}
	if rule.Prefix.Bits() == 0 {
		return verdict
	}
	return fmt.Sprintf("ip daddr %v %s", rule.Prefix, verdict)
}

const rules = `# Made by banger network setup.
add table inet {{.Table}}
delete table inet {{.Table}}
add table netdev {{.Table}}
delete table netdev {{.Table}}
table netdev {{.Table}} {
	set ip-senders {
		typeof iifname . ether saddr . ip saddr
		elements = {
{{- range $i, $g := .Guests}}{{if $i}},{{end}}
			"{{.TAP}}" . {{.MAC}} . {{.Address}}{{end}}
		}
	}
	set arp-senders {
		typeof iifname . ether saddr . arp saddr ether . arp saddr ip
		elements = {
{{- range $i, $g := .Guests}}{{if $i}},{{end}}
			"{{.TAP}}" . {{.MAC}} . {{.MAC}} . {{.Address}}{{end}}
		}
	}
	# A guest sends from its own addresses, or nothing.
	chain senders {
		type filter hook ingress devices = { {{range $i, $g := .Guests}}{{if $i}}, {{end}}{{.TAP}}{{end}} } priority 0; policy drop;
		iifname . ether saddr . ip saddr @ip-senders accept
		iifname . ether saddr . arp saddr ether . arp saddr ip @arp-senders accept
	}
}
table inet {{.Table}} {
	# Seen at once.
	chain refuse {
		meta l4proto tcp reject with tcp reset
		meta l4proto udp reject
		reject with icmp type admin-prohibited
	}
	# bangerd, which is not root, answers.
	chain names {
		type nat hook prerouting priority -100;
		iifname "{{.Bridge}}" ip daddr {{.Gateway}} meta l4proto { tcp, udp } th dport 53 redirect to :{{.Port}}
	}
	chain host {
		type filter hook input priority 0;
		iifname "{{.Bridge}}" goto guest-to-host
		iifname != "lo" ip daddr {{.Gateway}} drop
	}
	chain guest-to-host {
		ct state established,related accept
		ip daddr {{.Gateway}} meta l4proto { tcp, udp } th dport {{.Port}} accept
		ip daddr {{.Gateway}} icmp type echo-request accept
		{{if .Host}}accept{{else}}goto refuse{{end}}
	}
	chain route {
		type filter hook forward priority 0;
		iifname "{{.Bridge}}" goto guest-to-network
		oifname "{{.Bridge}}" ct state established,related accept
		oifname "{{.Bridge}}" drop
	}
	chain guest-to-network {
		ct state invalid drop
{{- range .Rules}}
		{{.}}{{end}}
		accept
	}
	chain leave {
		type nat hook postrouting priority 100;
		ip saddr {{.Network}} ip saddr != {{.Gateway}} oifname != "{{.Bridge}}" masquerade
	}
}
`
