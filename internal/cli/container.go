package cli

import (
	"context"
	"slices"

	"banger/internal/api"
	"banger/internal/client"
)

// containerCommand is what runs in a VM whose image was made for containers
// and has no init, and so no sshd: ok is false for every other image. A command
// that is given replaces entrypoint and cmd of the image; its environment and
// working directory hold for both. An image that names no program gets a shell.
func (a *app) containerCommand(ctx context.Context, c *client.Client, vm api.VM, command []string) (_ guestCommand, ok bool, err error) {
	image, err := c.Image(ctx, vm.Image)
	if err != nil {
		return guestCommand{}, false, err
	}
	config := image.Container
	if config == nil || image.Init != "" {
		return guestCommand{}, false, nil
	}
	if len(command) == 0 {
		command = slices.Concat(config.Entrypoint, config.Cmd)
	}
	if len(command) == 0 {
		command = []string{"/bin/sh"}
	}
	switch config.User {
	case "", "0", "root", "0:0", "root:root":
	default:
		a.warn("the image's user is %q; in the VM it runs as root", config.User)
	}
	return guestCommand{args: command, env: config.Env, dir: config.WorkingDir, tty: a.wantsTTY()}, true, nil
}
