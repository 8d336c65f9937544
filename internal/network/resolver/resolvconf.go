package resolver

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// ResolvConf is the host's own list of DNS servers.
const ResolvConf = "/etc/resolv.conf"

const (
	// maxResolvers and maxResolvConf are the C library's bound and a generous
	// one.
	maxResolvers  = 3
	maxResolvConf = 64 << 10
	// recheck is how often the file is looked at, at most.
	recheck = time.Second
)

// Servers follows the list of DNS servers in a resolv.conf file.
type Servers struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	checked time.Time
	content []byte
	list    []netip.AddrPort
	failed  bool
}

// NewServers reads nothing yet.
func NewServers(path string, log *slog.Logger) *Servers {
	return &Servers{path: path, log: log, now: time.Now}
}

// Get returns the servers. If the file cannot be read any more, it is those
// that were read last.
func (r *Servers) Get() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.list != nil && now.Sub(r.checked) < recheck {
		return r.list
	}
	r.checked = now
	content, err := readResolvConf(r.path)
	if err != nil {
		if !r.failed {
			r.log.Warn("cannot read the list of DNS servers", "error", err)
			r.failed = true
		}
		if r.list == nil {
			r.list = parseResolvConf(nil)
		}
		return r.list
	}
	r.failed = false
	if r.list != nil && bytes.Equal(content, r.content) {
		return r.list
	}
	r.content, r.list = content, parseResolvConf(content)
	r.log.Info("DNS servers", "servers", r.list)
	return r.list
}

func readResolvConf(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxResolvConf))
}

// parseResolvConf reads the nameserver lines; like the C library it takes the
// first three, and the host itself if there are none.
func parseResolvConf(content []byte) []netip.AddrPort {
	var list []netip.AddrPort
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() && len(list) < maxResolvers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil {
			continue
		}
		if server := netip.AddrPortFrom(addr.Unmap(), dnsPort); !slices.Contains(list, server) {
			list = append(list, server)
		}
	}
	if len(list) == 0 {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort))
	}
	return list
}
