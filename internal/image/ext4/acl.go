package ext4

import "encoding/binary"

// Xattr makes what ext4 keeps of an extended attribute as tar streams have it.
// ok is false for a value that is none of its kind.
func Xattr(name, value string) (stored string, ok bool) {
	if name == "system.posix_acl_access" || name == "system.posix_acl_default" {
		return acl(value)
	}
	return value, true
}

// acl makes ext4's form of an access control list of the kernel's: a version,
// then entries of which only those for a certain user or group have an id.
func acl(value string) (string, bool) {
	const (
		kernelVersion, storedVersion = 2, 1
		entrySize                    = 8
		user, group                  = 0x02, 0x08
	)
	b := []byte(value)
	if len(b) < 4 || (len(b)-4)%entrySize != 0 || binary.LittleEndian.Uint32(b) != kernelVersion {
		return "", false
	}
	stored := binary.LittleEndian.AppendUint32(nil, storedVersion)
	for entry := b[4:]; len(entry) > 0; entry = entry[entrySize:] {
		stored = append(stored, entry[:4]...)
		if tag := binary.LittleEndian.Uint16(entry); tag == user || tag == group {
			stored = append(stored, entry[4:entrySize]...)
		}
	}
	return string(stored), true
}
