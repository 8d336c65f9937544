package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"banger/internal/version"
)

// versionInfo is what `banger version --json` writes.
type versionInfo struct {
	Version string `json:"version"`
	Build   string `json:"build"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersion(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say which banger this is",
		Long:    "Say which banger this is: its version, and the build that tells a bangerd of the\nsame build from others. It does not ask bangerd; 'banger daemon status' does.",
		Example: "  banger version\n  banger version --json",
		GroupID: groupOther,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			info := versionInfo{Version: version.Version, Build: version.Build(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if asJSON {
				return a.writeJSON(info)
			}
			return a.writeLines(fmt.Sprintf("banger %s (build %s, %s, %s/%s)", info.Version, info.Build, info.Go, info.OS, info.Arch))
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
