package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletion(a *app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:     "completion bash|zsh|fish|powershell",
		Short:   "Write a shell's completion script",
		GroupID: groupOther,
		Long: `Write the script that makes a shell complete banger's commands, flags, and the
names of VMs, images and kernels. Names come from bangerd; while it is not
running nothing is completed, and completion never starts it.`,
		Example: `  # bash, for this user
  mkdir -p ~/.local/share/bash-completion/completions
  banger completion bash > ~/.local/share/bash-completion/completions/banger

  # zsh, where ~/.zfunc is in $fpath
  banger completion zsh > ~/.zfunc/_banger

  # fish
  banger completion fish > ~/.config/fish/completions/banger.fish

  # PowerShell
  banger completion powershell | Out-String | Invoke-Expression`,
		Args: exactly("the shell's name"),
		ValidArgsFunction: first(func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return shells, cobra.ShellCompDirectiveNoFileComp
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			var err error
			switch args[0] {
			case "bash":
				err = root.GenBashCompletionV2(a.env.Out, true)
			case "zsh":
				err = root.GenZshCompletion(a.env.Out)
			case "fish":
				err = root.GenFishCompletion(a.env.Out, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(a.env.Out)
			default:
				return usagef("%q is not a shell that banger can complete for: bash, zsh, fish or powershell", args[0])
			}
			if err != nil {
				return fmt.Errorf("cannot write: %w", err)
			}
			return nil
		},
	}
}
