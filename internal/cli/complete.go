package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/client"
)

// completeTimeout keeps a key press from waiting on a busy daemon.
const completeTimeout = 2 * time.Second

// noFiles is the directive without which shells complete file names.
func noFiles() *cobra.ShellCompDirective {
	directive := cobra.ShellCompDirectiveNoFileComp
	return &directive
}

// completeFlag sets what completes a flag's value.
func completeFlag(cmd *cobra.Command, name string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
		panic(err) // only if the command has no such flag
	}
}

// lookup asks bangerd for names.
type lookup func(ctx context.Context, c *client.Client) ([]string, error)

// live completes names that bangerd knows. With bangerd down it completes
// nothing, and it starts nothing.
func (a *app) live(names lookup) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		c, _, err := a.quietClient()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := names(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fitting []string
		for _, name := range all {
			if strings.HasPrefix(name, prefix) && !slices.Contains(args, name) {
				fitting = append(fitting, name)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes the first argument only.
func first(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, prefix)
	}
}

func vmNames(ctx context.Context, c *client.Client) ([]string, error) {
	vms, err := c.VMs(ctx)
	names := make([]string, 0, len(vms))
	for _, vm := range vms {
		names = append(names, vm.Name)
	}
	return names, err
}

// presentImages are the images in the store, allImages also those that could
// be pulled.
func presentImages(ctx context.Context, c *client.Client) ([]string, error) {
	return imageNames(ctx, c, false)
}

func allImages(ctx context.Context, c *client.Client) ([]string, error) {
	return imageNames(ctx, c, true)
}

func imageNames(ctx context.Context, c *client.Client, absent bool) ([]string, error) {
	images, err := c.Images(ctx)
	names := make([]string, 0, len(images))
	for _, image := range images {
		if image.Present || absent {
			names = append(names, image.Name)
		}
	}
	return names, err
}

func presentKernels(ctx context.Context, c *client.Client) ([]string, error) {
	return kernelNames(ctx, c, false)
}

func allKernels(ctx context.Context, c *client.Client) ([]string, error) {
	return kernelNames(ctx, c, true)
}

func kernelNames(ctx context.Context, c *client.Client, available bool) ([]string, error) {
	kernels, err := c.Kernels(ctx, available)
	names := make([]string, 0, len(kernels))
	for _, kernel := range kernels {
		names = append(names, kernel.Name)
	}
	return names, err
}
