//go:build !amd64

package launcher

var archDenied, archForks []uint32
