// Package doctor has what is found about a host: what `bangerd doctor` says, and
// banger shows.
package doctor

import "slices"

// Status of a check.
type Status string

// Statuses. Warn is something that banger does without; Fail is not.
const (
	Pass Status = "pass"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Row is the outcome of one check.
type Row struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	// Hint is what to do, empty if there is nothing to do.
	Hint string `json:"hint,omitempty"`
}

// Failed says whether any check failed.
func Failed(rows []Row) bool {
	return slices.ContainsFunc(rows, func(row Row) bool { return row.Status == Fail })
}
