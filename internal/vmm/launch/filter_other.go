//go:build !amd64

package launch

var archDenied, archForks []uint32
