package api

import (
	"fmt"
	"strings"
)

// CheckName refuses as the name of a VM what is not a DNS label: it becomes the
// guest's hostname and NAME.vm.
func CheckName(name string) error {
	if validName(name) {
		return nil
	}
	return &Error{
		Kind:    KindUsage,
		Message: fmt.Sprintf("cannot use %q as the name of a VM: a name has 1 to 63 of a-z, 0-9 and '-', and no '-' at an edge", name),
		Hint:    "leave the name out and banger makes one up",
	}
}

func validName(name string) bool {
	const most, inside = 63, "abcdefghijklmnopqrstuvwxyz0123456789-"
	return name != "" && len(name) <= most && strings.Trim(name, inside) == "" && strings.Trim(name, "-") == name
}
