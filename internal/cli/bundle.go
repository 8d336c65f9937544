package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/atomicfile"
	"banger/internal/client"
	"banger/internal/excerpt"
	"banger/internal/progress"
)

// What signatures of bundles are made for, and where they are: as package
// bundle has it.
const (
	signatureNamespace = "banger-bundle"
	signatureExtension = ".sig"
)

// exporter asks bangerd to pack an image or a kernel.
type exporter func(c *client.Client, ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error)

type exportOptions struct {
	output, key string
	json        bool
}

// newExport is `image export` or `kernel export`.
func newExport(a *app, noun, example string, names lookup, export exporter) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Pack " + withArticle(noun) + " into a file",
		Long: fmt.Sprintf(`Pack %s into one file, a bundle, which '%s import' and '%s pull' of
any host take. Without --output, or if that is a directory, the file is called
after its content: NAME-DIGEST.tar.zst. Its path is written to stdout.

With --sign a signature is written beside it, to FILE.sig. The key is an ed25519 key
of ssh, or the public half of one that ssh-agent has. Who has the public key in
trusted_keys of the configuration then takes bundles that are signed like this alone.`, withArticle(noun), noun, noun),
		Example: fmt.Sprintf(`  banger %s export %s -o bundles/
  banger %s export %s -o base.tar.zst --sign ~/.ssh/id_ed25519`, noun, example, noun, example),
		Args:              exactly("the " + noun + "'s name"),
		ValidArgsFunction: first(a.live(names)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExport(cmd.Context(), a, args[0], o, export)
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", ".", "write to `FILE`, or into that directory")
	cmd.Flags().StringVar(&o.key, "sign", "", "sign with the `KEY`, a file of ssh-keygen's")
	cmd.Flags().BoolVar(&o.json, "json", false, "write what was made as JSON in place of its path")
	return cmd
}

// withArticle is the noun with what goes before it.
func withArticle(noun string) string {
	if strings.ContainsAny(noun[:1], "aeiou") {
		return "an " + noun
	}
	return "a " + noun
}

func runExport(ctx context.Context, a *app, name string, o exportOptions, export exporter) error {
	path, err := filepath.Abs(o.output)
	if err != nil {
		return err
	}
	if strings.HasSuffix(o.output, string(filepath.Separator)) {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			return usagef("%q is not a directory", o.output)
		}
	}
	if o.key != "" {
		if _, err := os.Stat(o.key); err != nil {
			return usagef("cannot read the key: %v", err)
		}
	}
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	report, end := a.progress()
	exported, err := export(c, ctx, name, api.Export{Path: path}, report)
	end()
	if err != nil {
		return err
	}
	if o.key != "" {
		if exported.Signature, err = sign(ctx, o.key, exported); err != nil {
			return fmt.Errorf("cannot sign %q, which is there without a signature: %w", exported.Path, err)
		}
	}
	if o.json {
		return a.writeJSON(exported)
	}
	return a.writeLines(exported.Path)
}

// sign writes the signature of a bundle, and returns its file. ssh-keygen asks
// for a passphrase, and knows of agents and hardware keys.
func sign(ctx context.Context, key string, exported api.Exported) (string, error) {
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-q", "-Y", "sign", "-n", signatureNamespace, "-f", key)
	cmd.Stdin = strings.NewReader(exported.Signed)
	var said excerpt.Writer
	cmd.Stderr = &said
	signature, err := cmd.Output()
	if err != nil {
		if text := strings.TrimSpace(said.String()); text != "" {
			return "", errors.New(oneLine(text))
		}
		return "", err
	}
	path := exported.Path + signatureExtension
	return path, atomicfile.Write(path, signature, 0o644)
}
