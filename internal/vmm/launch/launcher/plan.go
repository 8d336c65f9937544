// Package launcher is the program that [banger/internal/vmm/launch] starts: it
// takes powers away from its own process, and then becomes a VMM. A VM waits for
// it, so that it imports, and does, little.
package launcher

import "banger/internal/confine"

// Subcommand is what the program is called with to run [Main].
const Subcommand = "launch"

// planFD is the connection on which the plan comes and the report goes.
const planFD = 3

// FirstFile is the descriptor that the first of [Plan.Files] becomes; the
// connection for [Plan.Network] comes after the last.
const FirstFile = planFD + 1

// MaxPlan bounds a plan, in bytes.
const MaxPlan = 256 << 10

// Grant is what a VMM is left with. Paths that are not there are no error:
// the VMM has something to say of them.
type Grant struct {
	// ReadOnly and ReadWrite are files, Devices device nodes.
	ReadOnly  []string `json:"read_only"`
	ReadWrite []string `json:"read_write"`
	Devices   []string `json:"devices"`
	// RunDir is a directory in which it makes sockets.
	RunDir string `json:"run_dir"`
	// FileBytes is how long a file may become by its writing.
	FileBytes int64 `json:"file_bytes"`
	// Internet allows sockets to hosts, and connecting at all.
	Internet bool `json:"internet"`
}

// Plan is what the launcher is told. Without a path it only makes the network,
// and to try is to be confined and to end.
type Plan struct {
	// Path is the program, Args are its arguments without its name.
	Path string   `json:"path"`
	Args []string `json:"args"`
	// Files is how many descriptors it gets, from [FirstFile] on.
	Files int `json:"files"`
	// Network says that there is a connection to who carries the guest's traffic.
	Network bool  `json:"network"`
	Try     bool  `json:"try"`
	Grant   Grant `json:"grant"`
}

// Report is what the launcher answers: first the layers, then, should the
// program not start, an error.
type Report struct {
	Layers []confine.Layer `json:"layers,omitempty"`
	Error  string          `json:"error,omitempty"`
}
