package hostenv

import (
	"crypto/sha1" //nolint:gosec // the name of a file, as OpenSSL has it
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type attributeSET []attribute // encoding/asn1 takes types with this ending for SETs

// subjectHash is the name under which OpenSSL looks for a certificate in a
// directory: the SHA-1 of its subject in a canonical form, in which texts are
// UTF-8, in lower case, with single spaces. It is empty for what is no name.
func subjectHash(subject []byte) string {
	var name []attributeSET
	if rest, err := asn1.Unmarshal(subject, &name); err != nil || len(rest) > 0 {
		return ""
	}
	var canonical []byte
	for _, set := range name {
		for i := range set {
			set[i].Value = canonicalValue(set[i].Value)
		}
		encoded, err := asn1.Marshal(set)
		if err != nil {
			return ""
		}
		canonical = append(canonical, encoded...)
	}
	sum := sha1.Sum(canonical) //nolint:gosec // as above
	return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(sum[:]))
}

// Tags of texts that encoding/asn1 does not name.
const (
	tagVisibleString   = 26
	tagUniversalString = 28
)

func canonicalValue(value asn1.RawValue) asn1.RawValue {
	if value.Class != asn1.ClassUniversal {
		return value
	}
	var text []rune
	switch value.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, tagVisibleString:
		text = []rune(string(value.Bytes))
	case asn1.TagT61String: // taken for Latin-1
		for _, b := range value.Bytes {
			text = append(text, rune(b))
		}
	case asn1.TagBMPString:
		var units []uint16
		for i := 0; i+1 < len(value.Bytes); i += 2 {
			units = append(units, binary.BigEndian.Uint16(value.Bytes[i:]))
		}
		text = utf16.Decode(units)
	case tagUniversalString:
		for i := 0; i+3 < len(value.Bytes); i += 4 {
			text = append(text, rune(binary.BigEndian.Uint32(value.Bytes[i:])))
		}
	default:
		return value
	}
	// ASCII only, in both steps.
	words := strings.FieldsFunc(string(text), func(r rune) bool { return r == ' ' || (r >= '\t' && r <= '\r') })
	lower := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, strings.Join(words, " "))
	return asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagUTF8String, Bytes: []byte(lower)}
}
