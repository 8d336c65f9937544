package fctest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// decode reads a body as Firecracker does: what is not known, missing or of
// another type is an error, and so is null in place of a value.
func decode(body []byte, into any, required ...string) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return jsonError(err.Error())
	}
	known := fieldsOf(reflect.TypeOf(into).Elem())
	for name, value := range fields {
		if !slices.Contains(known, name) {
			return jsonError(fmt.Sprintf("unknown field `%s`, expected one of `%s`", name, strings.Join(known, "`, `")))
		}
		if bytes.Equal(bytes.TrimSpace(value), []byte("null")) && !optional(into, name) {
			return jsonError("invalid type: null")
		}
	}
	for _, name := range required {
		if _, ok := fields[name]; !ok {
			return jsonError(fmt.Sprintf("missing field `%s`", name))
		}
	}
	if err := json.Unmarshal(body, into); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return jsonError("invalid type: " + wrong.Value + ", expected " + wrong.Type.String())
		}
		return jsonError(err.Error())
	}
	return nil
}

func jsonError(text string) error {
	return fault("An error occurred when deserializing the json body of a request: " + text + ".")
}

func unknownVariant(name, expected string) error {
	return jsonError(fmt.Sprintf("unknown variant `%s`, expected %s", name, expected))
}

func fieldsOf(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		if field.Anonymous {
			names = append(names, fieldsOf(field.Type)...)
			continue
		}
		names = append(names, field.Tag.Get("json"))
	}
	return names
}

// optional says whether a field may be null: those that are pointers here, and
// texts that need not be given.
func optional(into any, name string) bool {
	t := reflect.TypeOf(into).Elem()
	for field := range t.Fields() {
		if field.Tag.Get("json") == name {
			kind := field.Type.Kind()
			return kind == reflect.Pointer || kind == reflect.String && name != "drive_id" && name != "iface_id"
		}
	}
	return false
}

// checkID compares the id in a path with that in the body.
func checkID(path, body string) error {
	if path == "" || strings.ContainsFunc(path, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		return fault("API Resource IDs can only contain alphanumeric characters and underscores.")
	}
	if path != body {
		return fault("The id from the path does not match the id from the body!")
	}
	return nil
}
