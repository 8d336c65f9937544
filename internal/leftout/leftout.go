// Package leftout says what of a machine is in no image that is made of it.
// Names are relative to its root, and clean.
package leftout

import (
	"path"
	"slices"
	"strings"
)

// files are each machine's own, and not to be had twice.
var files = []string{
	"root/.ssh/authorized_keys", "etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id",
	// What the host has passed on: its proxies, whose URLs may have passwords,
	// and its certificates.
	"etc/systemd/system.conf.d/50-banger-host.conf", "etc/profile.d/banger-host.sh", "etc/banger/host-certificates.pem",
}

// File tells what is left out.
func File(name string) bool {
	return slices.ContainsFunc(files, func(pattern string) bool {
		matched, err := path.Match(pattern, name)
		return matched && err == nil
	})
}

// MachineID is an empty file in images: systemd, and banger, fill it.
const MachineID = "etc/machine-id"

var emptied = []string{"tmp", "run"}

// Emptied tells which directories are there without what is in them.
func Emptied(name string) bool { return slices.Contains(emptied, name) }

// Stores are where container engines have their layers: in a VM they are mounts,
// of which images have the directories only.
func Stores() []string {
	return []string{"var/lib/docker", "var/lib/containerd", "var/lib/containers"}
}

// Why says why a file would not be in an image, or not with its content; it is
// empty if it would.
func Why(name string) string {
	for _, dir := range slices.Concat(emptied, Stores(), []string{"dev", "proc", "sys"}) {
		if strings.HasPrefix(name+"/", dir+"/") {
			return "what is in /" + dir + " is the running system's"
		}
	}
	for at := name; at != "."; at = path.Dir(at) {
		if File(at) || at == MachineID {
			return "/" + at + " is each machine's own"
		}
	}
	return ""
}
