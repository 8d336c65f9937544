// Package kernels holds the definitions of the kernels that banger can fetch, one
// file a kernel, named as the kernel is.
package kernels

import "embed"

// Definitions are the files NAME.toml.
//
//go:embed *.toml
var Definitions embed.FS
