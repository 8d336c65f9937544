// Package images holds the definitions of the image catalog: one directory an
// image, with its definition.toml and the files that names. They are data; what
// the fields mean is told by package image, which reads them.
package images

import "embed"

// FS has the definitions' directories at its top.
//
//go:embed debian-bookworm debian-trixie
var FS embed.FS
