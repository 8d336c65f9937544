//go:build !amd64

package usernet

var archCalls []uint32
