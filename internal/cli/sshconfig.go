package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/internal/sshconfig"
)

type sshConfigOptions struct {
	install, uninstall bool
}

func newSSHConfig(a *app) *cobra.Command {
	var o sshConfigOptions
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Make plain 'ssh NAME.vm' work",
		Long: `Make plain 'ssh NAME.vm' work from any terminal, and with it scp, rsync, sftp and
editors: --install adds one marked Include to ~/.ssh/config, --uninstall takes it out
again and leaves every other byte as it was. Without a flag the line is only written,
for those who keep the file by hand; it goes to the top.`,
		Example: `  banger ssh-config --install
  ssh sandbox.vm
  scp notes.txt sandbox.vm:`,
		GroupID: groupOther,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSSHConfig(cmd.Context(), a, o) },
	}
	cmd.Flags().BoolVar(&o.install, "install", false, "add the Include to ~/.ssh/config")
	cmd.Flags().BoolVar(&o.uninstall, "uninstall", false, "take it out again")
	return cmd
}

func runSSHConfig(ctx context.Context, a *app, o sshConfigOptions) error {
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	user := filepath.Join(dirs.Home, ".ssh", "config")
	switch {
	case o.install && o.uninstall:
		return usagef("--install and --uninstall exclude each other")
	case o.install:
		// bangerd writes the file that is included.
		if _, err := a.client(ctx); err != nil {
			return err
		}
		changed, err := sshconfig.Install(user, dirs.SSHConfig())
		if err != nil {
			return err
		}
		if !changed {
			a.note("%s has the Include already", user)
			return nil
		}
		a.note("the Include is in %s now; try: ssh NAME.vm", user)
		return nil
	case o.uninstall:
		changed, err := sshconfig.Uninstall(user)
		if err != nil {
			return err
		}
		if !changed {
			a.note("%s has no Include of banger", user)
			return nil
		}
		a.note("the Include is gone from %s", user)
		return nil
	}
	line, err := sshconfig.Line(dirs.SSHConfig())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.env.Out, line); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}
