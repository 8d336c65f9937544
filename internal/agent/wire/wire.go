// Package wire is what the host and the agent in the guest say to each other:
// HTTP/1.1 on the agent channel, JSON bodies, and for exec one framed stream
// after an Upgrade. It holds data and framing only, and is imported by both
// sides.
//
//	GET  /v1/hello                     -> Hello
//	PUT  /v1/configuration             Configuration ->
//	GET  /v1/ready                     -> Ready; answers when the guest's init has settled (long poll)
//	POST /v1/exec                      ExecRequest, Upgrade: banger-exec; then frames
//	PUT  /v1/files?path=P              tar -> ; unpacked below the directory P
//	GET  /v1/files?path=P              -> tar of P, names relative to P's parent
//	GET  /v1/system                    -> tar of the root file system, as an image of it is to be
//	GET  /v1/ports                     -> []Port
//	GET  /v1/ports?watch=1             -> lines, each a []Port: what listens now, and again whenever that changes; without an end
//	GET  /v1/stats                     -> Stats
//	POST /v1/dial?address=HOST:PORT    Upgrade: banger-dial; then frames of a TCP connection made in the guest
//	POST /v1/shutdown                  Shutdown ->
//
// Errors are answered with a status of 400 or more and an Error body. Each
// request has a stream of its own. Streams are not half-closed: an end of file
// says that the peer is gone, and the end of one direction is a frame.
package wire

import "time"

// Version of this protocol. Host and guest always carry the same one, since
// the agent is part of the initramfs that the host makes.
const Version = 1

// VsockPort is the port the agent listens on where the channel is vsock.
const VsockPort = 1024

// PowerOffByReboot is the kernel argument of a machine that a power-off does
// not end: its guest reboots in place of it.
const PowerOffByReboot = "banger.poweroff=reboot"

// SerialPort is the name of the virtio-serial port where it is not.
const SerialPort = "banger.agent"

// Error is the body of every answer that is not a success. Kind is one of the
// Err* constants or empty.
type Error struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Kinds of errors a caller may act on.
const (
	ErrNotFound      = "not_found"      // file or program does not exist
	ErrNotExecutable = "not_executable" // found, but cannot be run
	ErrNotConfigured = "not_configured" // needs PUT /v1/configuration first
	ErrRefused       = "refused"        // nothing listens on the dialled port
	ErrBadRequest    = "bad_request"
)

// Hello says who answers.
type Hello struct {
	Version    int    `json:"version"`
	BootID     string `json:"boot_id"`
	Kernel     string `json:"kernel"`
	Configured bool   `json:"configured"`
	// Init is the path of the image's init, empty if it has none.
	Init string `json:"init,omitempty"`
}

// Ready is the state of the guest's init: "running", "degraded" (with the
// failed units), or "none" for an image without an init.
type Ready struct {
	State  string   `json:"state"`
	Failed []string `json:"failed,omitempty"`
}

// Configuration makes a blank guest this VM. Idempotent: it is sent at boot,
// and again after anything that changes a guest's identity.
type Configuration struct {
	Hostname  string `json:"hostname"`
	MachineID string `json:"machine_id"` // 32 hex digits
	// Interface is nil for a guest without a network.
	Interface *Interface `json:"interface,omitempty"`
	DNS       []string   `json:"dns,omitempty"`
	// Hosts are extra lines for /etc/hosts: address and name.
	Hosts          []Host    `json:"hosts,omitempty"`
	AuthorizedKeys []string  `json:"authorized_keys,omitempty"`
	HostKeys       []HostKey `json:"host_keys,omitempty"`
	Time           time.Time `json:"time"`
	Entropy        []byte    `json:"entropy,omitempty"` // credited to the guest's pool
	// Environment is for every session, command and service of the guest.
	Environment map[string]string `json:"environment,omitempty"`
	// Certificates are trusted by the guest beside those of its image.
	Certificates []Certificate `json:"certificates,omitempty"`
}

// Certificate is a CA's.
type Certificate struct {
	ID string `json:"id"` // hex digits that mean it alone
	// SubjectHash is the 8 hex digits by which OpenSSL finds it, empty if
	// there are none. Subject is for people.
	SubjectHash string `json:"subject_hash,omitempty"`
	Subject     string `json:"subject,omitempty"`
	PEM         string `json:"pem"`
}

// Interface is the guest's network interface, found by its MAC address.
type Interface struct {
	MAC     string `json:"mac"`
	Address string `json:"address"` // with prefix length: 172.16.0.5/24
	Gateway string `json:"gateway"`
	MTU     int    `json:"mtu,omitempty"`
}

// Host is one line of /etc/hosts.
type Host struct {
	Address string `json:"address"`
	Name    string `json:"name"`
}

// HostKey is one sshd host key. Private is in OpenSSH's PEM format, Public one
// line as in a .pub file.
type HostKey struct {
	Type    string `json:"type"` // "ed25519", ...
	Private string `json:"private"`
	Public  string `json:"public"`
}

// ExecRequest runs a program in the guest as root.
type ExecRequest struct {
	Args []string `json:"args"` // Args[0] is looked up in PATH
	// Env is added to the guest's usual environment: KEY=value.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory, /root if empty.
	Dir string `json:"dir,omitempty"`
	// TTY runs it on a new terminal of Size; stdout then carries everything.
	TTY  bool  `json:"tty,omitempty"`
	Size *Size `json:"size,omitempty"`
}

// Size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Exit is how a program ended: Code is its exit status, or 128 plus the number
// of the signal that killed it.
type Exit struct {
	Code   int `json:"code"`
	Signal int `json:"signal,omitempty"`
}

// Port is a TCP port something in the guest listens on.
type Port struct {
	Address string `json:"address"` // as bound: 0.0.0.0, ::, 127.0.0.1, ...
	Port    int    `json:"port"`
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"`
}

// Stats is a moment's use of resources. Sizes are bytes.
type Stats struct {
	Uptime      float64    `json:"uptime_seconds"`
	CPUSeconds  float64    `json:"cpu_seconds"` // used by all CPUs since boot
	CPUs        int        `json:"cpus"`
	Load        [3]float64 `json:"load"`
	MemoryTotal uint64     `json:"memory_total"`
	MemoryUsed  uint64     `json:"memory_used"`
	Disks       []Disk     `json:"disks"`
	Processes   int        `json:"processes"`
}

// Disk is one mounted file system of the guest.
type Disk struct {
	Mount string `json:"mount"`
	Total uint64 `json:"total"`
	Used  uint64 `json:"used"`
}

// Shutdown asks for a clean end: file systems are synced first. Reboot asks
// for a reboot in place of a power-off, which is what ends Firecracker.
type Shutdown struct {
	Reboot bool `json:"reboot,omitempty"`
}
