package config

import (
	"errors"
	"fmt"
)

// HostEnvironment is what guests get of how this host reaches the network.
type HostEnvironment struct {
	// Proxy passes the proxies of the environment on.
	Proxy bool
	// Certificates passes CA certificates on that the host trusts beyond its
	// distribution's own. CertificateFiles, if not nil, are passed in place
	// of those.
	Certificates     bool
	CertificateFiles []string
}

const inheritWords = `it must be "inherit" or "none"`

func setInherit(to *bool, from *string) error {
	if from == nil {
		return nil
	}
	switch *from {
	case "inherit":
		*to = true
	case "none":
		*to = false
	default:
		return fmt.Errorf("%s, not %q", inheritWords, *from)
	}
	return nil
}

func setCertificates(to *HostEnvironment, from any, home string) error {
	switch value := from.(type) {
	case nil:
		return nil
	case string:
		return setInherit(&to.Certificates, &value)
	case []any:
		to.Certificates, to.CertificateFiles = false, []string{}
		for _, entry := range value {
			name, ok := entry.(string)
			if !ok {
				return errors.New("its entries must be names of files")
			}
			var path string
			if err := setPath(&path, &name, home); err != nil {
				return err
			}
			to.CertificateFiles = append(to.CertificateFiles, path)
		}
		return nil
	default:
		return errors.New(inheritWords + ", or a list of files")
	}
}
