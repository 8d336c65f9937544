package workspace

import (
	"os"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	// The modes of the files that tests make count.
	syscall.Umask(0o022)
	os.Exit(m.Run()) //nolint:forbidigo // this is main
}
