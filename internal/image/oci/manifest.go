package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The platform that guests have.
const (
	wantOS           = "linux"
	wantArchitecture = "amd64"
)

// PlatformError says that there is no image for a guest's platform.
type PlatformError struct {
	Have []string // OS/ARCHITECTURE of what is there
}

func (e *PlatformError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("there is no image for %s/%s in it", wantOS, wantArchitecture)
	}
	return fmt.Sprintf("there is no image for %s/%s, only for %s", wantOS, wantArchitecture, strings.Join(e.Have, ", "))
}

// descriptor says what a blob is, in manifests and indexes.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

func (d descriptor) check() error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > MaxSize {
		return tooLarge("a part of it has %d bytes", d.Size)
	}
	return nil
}

// manifest is that of an image, or an index of several.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Manifests     []descriptor `json:"manifests"`
}

func parseManifest(data []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("cannot read the manifest: %w", err)
	}
	if m.isIndex() {
		return m, nil
	}
	if m.SchemaVersion != 2 || m.Config.Digest == "" {
		return m, errors.New("cannot read the manifest: it is not one of an image that is known here")
	}
	if len(m.Layers) > maxLayers {
		return m, tooLarge("it has %d layers", len(m.Layers))
	}
	if m.Config.Size > maxConfig {
		return m, tooLarge("its config has %d bytes", m.Config.Size)
	}
	var total int64
	for i, d := range append([]descriptor{m.Config}, m.Layers...) {
		if err := d.check(); err != nil {
			return m, fmt.Errorf("cannot use the manifest: %w", err)
		}
		if total += d.Size; total > MaxSize {
			return m, tooLarge("its layers have more than %d GiB", int64(MaxSize)>>30)
		}
		if i > 0 && !isLayerType(d.MediaType) {
			return m, fmt.Errorf("cannot use the manifest: layer %d is of the type %.100q", i, d.MediaType)
		}
	}
	return m, nil
}

func (m manifest) isIndex() bool { return m.Config.Digest == "" && len(m.Manifests) > 0 }

func isLayerType(mediaType string) bool {
	return strings.Contains(mediaType, ".layer.") || strings.Contains(mediaType, ".rootfs.")
}

// choose returns the index's image for a guest.
func (m manifest) choose() (descriptor, error) {
	var have []string
	var unknown []descriptor
	for _, d := range m.Manifests {
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "":
			// An attestation, no image.
		case d.Platform == nil:
			unknown = append(unknown, d)
		case d.Platform.OS == wantOS && d.Platform.Architecture == wantArchitecture && (d.Platform.Variant == "" || d.Platform.Variant == "v1"):
			return d, d.check()
		default:
			platform := d.Platform.OS + "/" + d.Platform.Architecture
			if d.Platform.Variant != "" {
				platform += "/" + d.Platform.Variant
			}
			if platform != "unknown/unknown" && !slices.Contains(have, platform) && len(have) < 16 {
				have = append(have, platform)
			}
		}
	}
	if len(unknown) == 1 { // its config says what it is for
		return unknown[0], unknown[0].check()
	}
	if len(unknown) > 1 {
		return descriptor{}, fmt.Errorf("there are %d images in it, and nothing says which is for %s/%s", len(unknown), wantOS, wantArchitecture)
	}
	return descriptor{}, &PlatformError{Have: have}
}
