//go:build !amd64 && !arm64

package confine

// auditArch is zero where no filter was made.
const (
	auditArch = 0
	otherABI  = 0x40000000
)
