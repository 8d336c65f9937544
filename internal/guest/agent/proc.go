package agent

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

// sessionMembers returns the processes of a session.
func sessionMembers(proc string, session int) []int {
	var members []int
	for _, pid := range pids(proc) {
		b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
		if err == nil && sessionOf(string(b)) == session {
			members = append(members, pid)
		}
	}
	return members
}

// sessionOf reads the session from /proc/PID/stat, -1 if it is not there. The
// second field is the program's name in parentheses and may hold anything.
func sessionOf(stat string) int {
	const session = 3 // after the name: state, parent, group, session
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= session {
		return -1
	}
	n, err := strconv.Atoi(fields[session])
	if err != nil {
		return -1
	}
	return n
}

func pids(proc string) []int {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	var list []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// listening returns the TCP ports something listens on, by port then address.
func listening(proc string) ([]wire.Port, error) {
	var sockets []socket
	for _, name := range []string{"tcp", "tcp6"} {
		file, err := os.Open(filepath.Join(proc, "net", name))
		if err != nil {
			if os.IsNotExist(err) {
				continue // a kernel without IPv6
			}
			return nil, fmt.Errorf("cannot list listening ports: %w", err)
		}
		found, err := parseTCP(bufio.NewScanner(file))
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot list listening ports: %w", err)
		}
		sockets = append(sockets, found...)
	}
	owners := socketOwners(proc, sockets)
	ports := []wire.Port{}
	for _, s := range sockets {
		port := wire.Port{Address: s.address.Addr().String(), Port: int(s.address.Port())}
		if pid, ok := owners[s.inode]; ok {
			port.PID = pid
			// Gone by now, or a name.
			name, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "comm"))
			port.Process = strings.TrimSpace(string(name))
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, func(a, b wire.Port) int {
		if a.Port != b.Port {
			return a.Port - b.Port
		}
		return strings.Compare(a.Address, b.Address)
	})
	return slices.Compact(ports), nil
}

type socket struct {
	address netip.AddrPort
	inode   string
}

// parseTCP reads /proc/net/tcp or tcp6.
func parseTCP(lines *bufio.Scanner) ([]socket, error) {
	const (
		local, state, inode = 1, 3, 9
		listen              = "0A"
	)
	var sockets []socket
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) <= inode || fields[state] != listen {
			continue
		}
		address, err := parseAddress(fields[local])
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, socket{address, fields[inode]})
	}
	return sockets, lines.Err()
}

// parseAddress reads 0100007F:1F90: 32-bit words in the byte order of the
// machine (little endian on all that banger runs on), then the port.
func parseAddress(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || (len(b) != net.IPv4len && len(b) != net.IPv6len) {
		return netip.AddrPort{}, fmt.Errorf("cannot understand the address %q", s)
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// socketOwners finds a process for each socket, by its inode.
func socketOwners(proc string, sockets []socket) map[string]int {
	wanted := map[string]string{}
	for _, s := range sockets {
		wanted["socket:["+s.inode+"]"] = s.inode
	}
	owners := map[string]int{}
	for _, pid := range pids(proc) {
		if len(owners) == len(wanted) {
			break
		}
		dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // gone, or another user's
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			if inode, ok := wanted[target]; ok {
				if _, known := owners[inode]; !known {
					owners[inode] = pid
				}
			}
		}
	}
	return owners
}

func (s *Server) stats(w http.ResponseWriter, _ *http.Request) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	stats, err := readStats("/proc", root)
	if err != nil {
		return err
	}
	return answer(w, stats)
}

func readStats(proc string, root *rootfs.FS) (wire.Stats, error) {
	var stats wire.Stats
	text := map[string]string{}
	for _, name := range []string{"uptime", "stat", "loadavg", "meminfo"} {
		b, err := os.ReadFile(filepath.Join(proc, name))
		if err != nil {
			return stats, fmt.Errorf("cannot read statistics: %w", err)
		}
		text[name] = string(b)
	}
	if f := strings.Fields(text["uptime"]); len(f) > 0 {
		stats.Uptime, _ = strconv.ParseFloat(f[0], 64)
	}
	stats.CPUSeconds, stats.CPUs = parseCPU(text["stat"])
	for i, f := range strings.Fields(text["loadavg"]) {
		if i < len(stats.Load) {
			stats.Load[i], _ = strconv.ParseFloat(f, 64)
		}
	}
	memory := parseMemory(text["meminfo"])
	stats.MemoryTotal = memory["MemTotal"]
	stats.MemoryUsed = stats.MemoryTotal - min(memory["MemAvailable"], stats.MemoryTotal)
	for _, pid := range pids(proc) {
		// Kernel threads have no program.
		if _, err := os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "exe")); err == nil {
			stats.Processes++
		}
	}
	for _, mount := range []string{"/", home} {
		if disk, ok := readDisk(root, mount); ok {
			stats.Disks = append(stats.Disks, disk)
		}
	}
	return stats, nil
}

func readDisk(root *rootfs.FS, mount string) (wire.Disk, bool) {
	dir, err := root.OpenFile(mount, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return wire.Disk{}, false
	}
	defer dir.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return wire.Disk{}, false
	}
	size := uint64(fs.Bsize)
	return wire.Disk{Mount: mount, Total: fs.Blocks * size, Used: (fs.Blocks - fs.Bfree) * size}, true
}

// ticks is USER_HZ, the unit of /proc/stat.
const ticks = 100

// parseCPU reads what all CPUs have used, idling and guests left out, and how
// many they are.
func parseCPU(stat string) (seconds float64, cpus int) {
	const idle, iowait, guest = 4, 5, 9
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu"):
		case fields[0] == "cpu":
			for i, f := range fields {
				if n, err := strconv.ParseUint(f, 10, 63); err == nil && i != idle && i != iowait && i < guest {
					seconds += float64(n) / ticks
				}
			}
		default:
			cpus++
		}
	}
	return seconds, cpus
}

// parseMemory reads /proc/meminfo into bytes.
func parseMemory(text string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(line, ":")
		f := strings.Fields(v)
		if len(f) == 2 && f[1] == "kB" {
			if n, err := strconv.ParseUint(f[0], 10, 53); err == nil {
				values[k] = n << 10
			}
		}
	}
	return values
}
