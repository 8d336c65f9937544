// Package version says which banger this is.
package version

import (
	"runtime/debug"
	"sync"
)

// Version is set by the linker (-ldflags "-X banger/internal/version.Version=...").
var Version = "dev"

// Build identifies the source that this binary was built from: banger and
// bangerd of one `make build` have the same. It is what the linker set in
// build, else the revision that the Go tool recorded, else "unknown".
func Build() string { return identity() }

// build is set by the linker, as Version is.
var build string

var identity = sync.OnceValue(func() string {
	if build != "" {
		return build
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+modified"
			}
		}
	}
	if revision == "" {
		return "unknown"
	}
	return revision + modified
})
