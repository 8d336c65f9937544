package workspace

import (
	"fmt"
	"strings"
)

// Quote writes a path as git does in its output (core.quotePath off): as it is,
// or, where it has control characters, quotes or backslashes, in double quotes
// with C's escapes. So a line is always one path.
func Quote(name string) string {
	var b strings.Builder
	quoted := false
	for i := range len(name) {
		switch c := name[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
			quoted = true
		case c == '\n':
			b.WriteString(`\n`)
			quoted = true
		case c == '\t':
			b.WriteString(`\t`)
			quoted = true
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
			quoted = true
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return `"` + b.String() + `"`
	}
	return name
}
