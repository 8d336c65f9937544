// Package oci reads images that were made for containers: from registries,
// from layouts and archives on disk, and plain archives of a file system. It
// flattens their layers into one stream that has what the image has.
//
// Everything that it reads is hostile: there are limits to it, nothing is ever
// written under a name that an image has, and content is verified.
package oci

import (
	"encoding/json"
	"fmt"
)

// Config is what an image says about the programs in it.
type Config struct {
	Env        []string `json:"env,omitempty"`
	User       string   `json:"user,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// Image is an image that can be flattened.
type Image struct {
	// Reference is where it is, or was when it was saved; empty if unknown.
	Reference string
	// Digest is that of its manifest, "sha256:HEX"; empty without one.
	Digest string
	// Kind is what it was read from, in a word or two.
	Kind    string
	Config  Config
	Created string
	Layers  []Layer
	close   func() error
}

// Close ends the use of the image. Its layers cannot be read afterwards.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// configFile is the part of an image's config that matters here.
type configFile struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Created      string `json:"created"`
	Config       struct {
		Env        []string `json:"Env"`
		User       string   `json:"User"`
		WorkingDir string   `json:"WorkingDir"`
		Entrypoint []string `json:"Entrypoint"`
		Cmd        []string `json:"Cmd"`
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

func parseConfig(data []byte) (configFile, error) {
	var c configFile
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("cannot read the image's config: %w", err)
	}
	// Some tools leave them out.
	if (c.OS != "" && c.OS != wantOS) || (c.Architecture != "" && c.Architecture != wantArchitecture) {
		return c, &PlatformError{Have: []string{c.OS + "/" + c.Architecture}}
	}
	for _, id := range c.RootFS.DiffIDs {
		if err := checkDigest(id); err != nil {
			return c, fmt.Errorf("cannot read the image's config: %w", err)
		}
	}
	return c, nil
}

func (c configFile) public() Config {
	return Config{
		Env: c.Config.Env, User: c.Config.User, WorkingDir: c.Config.WorkingDir,
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
	}
}
