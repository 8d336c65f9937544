package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/internal/version"
)

const (
	groupMain   = "main"
	groupManage = "manage"
	groupOther  = "other"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Short: "A disposable Linux microVM with one command",
		Long: `banger gives you a disposable Linux microVM with one command.

A VM runs Debian with systemd, ssh, Docker and the usual development tools. It
has its own kernel and disks, reaches the internet, and is reachable only from
this host. What it needs is fetched by itself the first time.`,
		Example: `  # a sandbox with a shell in it
  banger vm run

  # run one command in a fresh VM, then delete the VM
  banger vm run --rm -- uname -a

  # what is there, and what is wrong
  banger ps
  banger doctor`,
		Version:           version.Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true, DefaultShellCompDirective: noFiles()},
	}
	root.SetVersionTemplate("banger {{.Version}}\n")
	root.AddGroup(
		&cobra.Group{ID: groupMain, Title: "Sandboxes:"},
		&cobra.Group{ID: groupManage, Title: "What they are made of:"},
		&cobra.Group{ID: groupOther, Title: "banger itself:"},
	)
	root.SetHelpCommand(newHelp())
	root.PersistentFlags().BoolP("help", "h", false, "explain a command")
	root.Flags().BoolP("version", "v", false, "say which banger this is")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
			return usagef("bad --%s: %s", invalid.GetFlag().Name, strings.TrimPrefix(errors.Unwrap(invalid).Error(), "time: "))
		}
		return &usageError{message: err.Error()}
	})
	root.SetUsageTemplate(usageTemplate)
	ps := newVMList(a)
	ps.Use, ps.Aliases, ps.GroupID = "ps", nil, groupMain
	ps.Short = "List VMs (the same as 'banger vm list')"
	ps.Example = strings.ReplaceAll(ps.Example, "banger vm list", "banger ps")
	root.AddCommand(
		newVM(a), ps,
		newImage(a), newKernel(a), newNetwork(a),
		newDaemon(a), newDoctor(a), newSSHConfig(a), newVersion(a), newCompletion(a), newInternal(a),
	)
	setGroup(root)
	return root
}

// newHelp is cobra's, but what it does not know is an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Explain a command",
		Long:    "Explain a command, as --help after it does.",
		Example: "  banger help vm run",
		GroupID: groupOther,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if found, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, child := range found.Commands() {
					if child.IsAvailableCommand() && strings.HasPrefix(child.Name(), prefix) {
						names = append(names, child.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q", strings.Join(args, " "))
			}
			return found.Help()
		},
	}
}

// newGroup makes a command that only holds others.
func newGroup(use, short, long, group string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, GroupID: group}
	cmd.AddCommand(children...)
	return cmd
}

// setGroup makes every command that only holds others refuse a subcommand that
// it does not have: cobra would show its help and call that a success.
func setGroup(cmd *cobra.Command) {
	for _, child := range cmd.Commands() {
		setGroup(child)
	}
	if cmd.Runnable() {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := &usageError{message: fmt.Sprintf("there is no command %q in %q", args[0], cmd.CommandPath())}
		if meant := meant(cmd, args[0]); meant != "" {
			err.hint = fmt.Sprintf("did you mean '%s'?", meant)
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2
}

// meant guesses which command name stands for below cmd: one that is spelled
// much like it, or one of that name in a group, those of VMs first, as in
// "banger run".
func meant(cmd *cobra.Command, name string) string {
	if similar := cmd.SuggestionsFor(name); len(similar) > 0 {
		return cmd.CommandPath() + " " + similar[0]
	}
	found := ""
	for _, group := range cmd.Commands() {
		for _, child := range group.Commands() {
			if child.IsAvailableCommand() && child.Name() == name && (found == "" || group.GroupID == groupMain) {
				found = child.CommandPath()
			}
		}
	}
	return found
}

// noArgs, exactly and atLeast check the number of arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("this takes no arguments, and there is %q", args[0])
	}
	return nil
}

func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usagef("there is an argument too many: %q", args[len(names)])
		}
		return notEmpty(args)
	}
}

func atLeastOne(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s is missing", name)
		}
		return notEmpty(args)
	}
}

func notEmpty(args []string) error {
	if slices.Contains(args, "") {
		return usagef("an argument is empty")
	}
	return nil
}

// usageTemplate is cobra's, without what this program does not have, and
// without flags in the usage of a command that only holds others.
const usageTemplate = `Usage:
{{- if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND
{{- else}}
  {{.UseLine}}
{{- end}}
{{- if .HasExample}}

Examples:
{{.Example}}
{{- end}}
{{- if .HasAvailableSubCommands}}
{{- $cmds := .Commands}}
{{- if eq (len .Groups) 0}}

Commands:
{{- range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}
{{- end}}{{end}}
{{- else}}
{{- range $group := .Groups}}

{{.Title}}
{{- range $cmds}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}
{{- end}}{{end}}{{end}}
{{- end}}
{{- end}}
{{- if .HasAvailableFlags}}

Flags:
{{.Flags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

'{{.CommandPath}} COMMAND --help' explains a command.
{{- end}}
`
