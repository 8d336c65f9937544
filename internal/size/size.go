// Package size reads and writes amounts of memory and disk as people write
// them: 512M, 4G, 4GiB. Units are binary; a bare number is MiB.
package size

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Binary units in bytes.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)

var units = []struct {
	letter string
	bytes  int64
}{{"T", TiB}, {"G", GiB}, {"M", MiB}, {"K", KiB}}

// Parse returns text as bytes, which are more than zero. It takes a whole
// number and a unit (K, M, G or T, in either case, also as KB or KiB), or a
// bare number of MiB. The error says what is wrong and quotes the text.
func Parse(text string) (int64, error) {
	digits, unit := text, ""
	if i := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits, unit = text[:i], text[i:]
	}
	if digits == "" {
		return 0, fmt.Errorf("%q is not a size: write a whole number and a unit, as in 512M or 4G", text)
	}
	multiple, ok := multiples(unit)
	if !ok {
		return 0, fmt.Errorf("%q is not a size: its unit is not one of K, M, G, T", text)
	}
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || number > math.MaxInt64/multiple {
		return 0, fmt.Errorf("%q is not a size: it is too large", text)
	}
	if number == 0 {
		return 0, fmt.Errorf("%q is not a size: it is zero", text)
	}
	return number * multiple, nil
}

func multiples(unit string) (int64, bool) {
	unit = strings.ToUpper(unit)
	if unit == "" {
		return MiB, true
	}
	for _, u := range units {
		if unit == u.letter || unit == u.letter+"B" || unit == u.letter+"IB" {
			return u.bytes, true
		}
	}
	return 0, false
}

// Format writes bytes exactly, in the largest unit that divides it, such that
// [Parse] reads it back: 8G, 1536M. Bytes that are no multiple of 1 KiB are
// rounded up to one.
func Format(bytes int64) string {
	for _, u := range units {
		if bytes >= u.bytes && bytes%u.bytes == 0 {
			return strconv.FormatInt(bytes/u.bytes, 10) + u.letter
		}
	}
	kib := bytes / KiB
	if bytes%KiB > 0 {
		kib++
	}
	return strconv.FormatInt(kib, 10) + "K"
}

// Human writes bytes for a person to read, with three significant digits at
// most: 0 B, 73 KiB, 1.2 GiB.
func Human(bytes int64) string {
	for _, u := range units {
		if bytes < u.bytes {
			continue
		}
		value := float64(bytes) / float64(u.bytes)
		if value < 9.95 {
			return fmt.Sprintf("%.1f %siB", value, u.letter)
		}
		return fmt.Sprintf("%.0f %siB", value, u.letter)
	}
	return strconv.FormatInt(bytes, 10) + " B"
}
