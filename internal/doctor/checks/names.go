package checks

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"banger/internal/doctor"
	"banger/internal/network/dns"
)

// askTimeout bounds each of the questions to a resolver.
const askTimeout = 2 * time.Second

// names looks whether NAME.vm works on this host.
func names(ctx context.Context, deps Deps) []doctor.Row {
	const check, recipes = "names", "see docs/dns-routing.md"
	port := deps.Config.DNSPort
	if port == 0 {
		return []doctor.Row{warn(check, "NAME.vm is not answered: dns_port is 0; the addresses in banger vm ports work without", "remove dns_port from the configuration")}
	}
	mine := dns.Owner(os.Getuid())
	server := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	ask := func(f func(context.Context) (string, error)) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return f(ctx)
	}
	owner, serverErr := ask(func(ctx context.Context) (string, error) { return deps.NamesServer(ctx, server) })
	if serverErr == nil && owner != mine {
		return []doctor.Row{warn(check, fmt.Sprintf("NAME.vm does not mean your VMs: at %s answers the %s", server, owner), "set dns_port to another port in the configuration; "+recipes)}
	}
	owner, err := ask(deps.NamesWired)
	switch {
	case err == nil && owner == mine:
		return []doctor.Row{pass(check, "NAME.vm works on this host: its resolver asks bangerd at "+server)}
	case err == nil:
		return []doctor.Row{warn(check, "this host's resolver asks the "+owner+" for NAME.vm", recipes)}
	case serverErr != nil:
		return []doctor.Row{warn(check, "bangerd does not answer at "+server+" now (it does while it runs), so it cannot be told whether this host's resolver asks it for NAME.vm", "start bangerd with any command, such as banger vm list; "+recipes)}
	}
	return []doctor.Row{warn(check, "bangerd answers for NAME.vm at "+server+", but this host's resolver does not ask it; the addresses in banger vm ports work without", "with systemd-resolved: sudo banger network resolved --install; "+recipes)}
}
