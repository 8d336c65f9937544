package vmm

import (
	"context"
	"fmt"
	"net"
	"os"
)

// DialNetwork connects to the process that carries a guest's traffic.
func DialNetwork(ctx context.Context, socket string) (*os.File, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot connect the VM to its network: %w", err)
	}
	defer conn.Close()
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, fmt.Errorf("cannot connect the VM to its network: %w", err)
	}
	return file, nil
}
