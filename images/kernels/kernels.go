// Package kernels holds the recipes of the kernels that banger can fetch, one
// file a kernel, named as the kernel is.
package kernels

import "embed"

// Recipes are the files NAME.toml.
//
//go:embed *.toml
var Recipes embed.FS
