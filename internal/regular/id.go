package regular

import (
	"io/fs"
	"syscall"
	"time"
)

// ID tells, without reading it, whether a file is another than before.
type ID struct {
	device, inode uint64
	size          int64
	modified      time.Time
}

// Identify returns the identity of the file that the information is of.
func Identify(info fs.FileInfo) ID {
	id := ID{size: info.Size(), modified: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode = stat.Dev, stat.Ino
	}
	return id
}
