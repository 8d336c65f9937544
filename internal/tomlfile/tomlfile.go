// Package tomlfile decodes TOML files that users write. It is strict, and what
// is wrong is told with file, line and key.
package tomlfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Error is what is wrong with a file.
type Error struct {
	Path   string
	Line   int    // 1 is the first; 0 if not known
	Key    string // dotted; empty where the text is not TOML at all
	Reason string
}

func (e *Error) Error() string {
	where := e.Path
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.Path, e.Line)
	}
	if e.Key != "" {
		where += ": " + e.Key
	}
	return where + ": " + e.Reason
}

// Decode reads the content of the file at path into a structure that has a
// field for every key. It returns nil if nothing is wrong.
func Decode(path string, data []byte, into any) *Error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into)
	if err == nil {
		return nil
	}
	result := &Error{Path: path, Reason: oneLine(err.Error())}
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(unknown.Errors) > 0 {
		first := &unknown.Errors[0]
		result.Line, _ = first.Position()
		result.Key = strings.Join(first.Key(), ".")
		result.Reason = "unknown key"
		return result
	}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		result.Line, _ = decode.Position()
		result.Key = strings.Join(decode.Key(), ".")
		if result.Key == "" {
			result.Key = keyAt(data, result.Line)
		}
		result.Reason = oneLine(strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return result
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// KeyLine returns the line on which a dotted key is given a value, 0 if it is
// nowhere.
func KeyLine(data []byte, key string) int {
	return keyLines(data)[key]
}

// keyAt returns the key that has its value on a line, empty if none has.
func keyAt(data []byte, line int) string {
	for key, at := range keyLines(data) {
		if at == line {
			return key
		}
	}
	return ""
}

// keyLines maps every dotted key to its line, up to where data is not TOML.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	var parser unstable.Parser
	parser.Reset(data)
	var table []string
	for parser.NextExpression() {
		node := parser.Expression()
		if node.Kind == unstable.KeyValue {
			addKey(&parser, lines, table, node)
		} else {
			table, _ = dotted(&parser, nil, node)
		}
	}
	return lines
}

func addKey(parser *unstable.Parser, lines map[string]int, prefix []string, node *unstable.Node) {
	key, line := dotted(parser, prefix, node)
	lines[strings.Join(key, ".")] = line
	if value := node.Value(); value.Kind == unstable.InlineTable {
		for children := value.Children(); children.Next(); {
			if child := children.Node(); child.Kind == unstable.KeyValue {
				addKey(parser, lines, key, child)
			}
		}
	}
}

// dotted returns the parts of a node's key after a prefix, and its line.
func dotted(parser *unstable.Parser, prefix []string, node *unstable.Node) ([]string, int) {
	key := append([]string(nil), prefix...)
	line := 0
	for parts := node.Key(); parts.Next(); {
		part := parts.Node()
		key = append(key, string(part.Data))
		if line == 0 && part.Raw.Length > 0 {
			line = parser.Shape(part.Raw).Start.Line
		}
	}
	return key, line
}

// EntryLine is the line on which the i-th table of an array gives key a value,
// else that on which the table begins.
func EntryLine(data []byte, array string, i int, key string) int {
	var parser unstable.Parser
	parser.Reset(data)
	at, line := -1, 0
	for parser.NextExpression() {
		node := parser.Expression()
		name, here := dotted(&parser, nil, node)
		switch {
		case node.Kind == unstable.ArrayTable && slices.Equal(name, []string{array}):
			if at++; at == i {
				line = here
			}
		case node.Kind == unstable.Table, node.Kind == unstable.ArrayTable:
			if at == i {
				return line
			}
		case at == i && slices.Equal(name, []string{key}):
			return here
		case at < 0 && slices.Equal(name, []string{array}): // an array of inline tables
			return here
		}
	}
	return line
}
