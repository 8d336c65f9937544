package api

import (
	"fmt"
	"regexp"
)

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName refuses as the name of a VM what is not a DNS label: it becomes the
// guest's hostname and NAME.vm.
func CheckName(name string) error {
	if validName.MatchString(name) {
		return nil
	}
	return &Error{
		Kind:    KindUsage,
		Message: fmt.Sprintf("cannot use %q as the name of a VM: a name has 1 to 63 of a-z, 0-9 and '-', and no '-' at an edge", name),
		Hint:    "leave the name out and banger makes one up",
	}
}
