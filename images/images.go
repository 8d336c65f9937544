// Package images holds the recipes of the image catalog: one directory an
// image, with its recipe.toml and the files that names. They are data; what
// the fields mean is told by package image, which reads them.
package images

import "embed"

// FS has the recipes' directories at its top.
//
//go:embed debian-bookworm debian-trixie
var FS embed.FS
