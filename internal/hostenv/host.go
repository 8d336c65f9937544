package hostenv

import (
	"context"
	"net"
	"net/netip"

	"banger/internal/config"
)

// OnThisHost are the options for the host that this process runs on.
func OnThisHost(settings config.HostEnvironment, gateway netip.Addr) Options {
	return Options{
		Settings: settings, Gateway: gateway, Root: "/",
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	}
}
