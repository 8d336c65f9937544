package oci

import (
	"slices"
	"strings"
)

// children are the names in a directory. Most directories have few: those are
// searched through, which takes a fraction of a map's memory.
type children struct {
	list   []*dentry
	index  map[string]int32 // into the list, of one with more than searched
	pruned int32            // layer that has removed what others had here, or -1
}

const searched = 16

func newChildren() *children { return &children{pruned: -1} }

// at returns the place of a name in the list, or -1.
func (c *children) at(name string) int {
	if c.index == nil {
		return slices.IndexFunc(c.list, func(d *dentry) bool { return d.name == name })
	}
	if i, ok := c.index[name]; ok {
		return int(i)
	}
	return -1
}

// get returns nil for a name that is not there.
func (c *children) get(name string) *dentry {
	if i := c.at(name); i >= 0 {
		return c.list[i]
	}
	return nil
}

// put takes a name in, or replaces the one that is there.
func (c *children) put(d *dentry) {
	if i := c.at(d.name); i >= 0 {
		c.list[i] = d
		return
	}
	c.list = append(c.list, d)
	if c.index != nil {
		c.index[d.name] = int32(len(c.list) - 1)
	} else if len(c.list) > searched {
		c.reindex()
	}
}

func (c *children) remove(name string) {
	i, last := c.at(name), len(c.list)-1
	if i < 0 {
		return
	}
	moved := c.list[last]
	c.list[i], c.list[last] = moved, nil
	c.list = c.list[:last]
	if c.index != nil {
		c.index[moved.name] = int32(i)
		delete(c.index, name)
	}
}

// prune removes what other layers than this one have put here, once.
func (c *children) prune(layer int32) {
	if c.pruned == layer {
		return
	}
	c.pruned = layer
	c.list = slices.DeleteFunc(c.list, func(d *dentry) bool { return !prune(d, layer) })
	c.reindex()
}

func (c *children) reindex() {
	c.index = nil
	if len(c.list) <= searched {
		return
	}
	c.index = make(map[string]int32, len(c.list))
	for i, d := range c.list {
		c.index[d.name] = int32(i)
	}
}

// sort brings the list into the order of names, and is the end: what is looked
// for afterwards takes long to find.
func (c *children) sort() {
	c.index = nil
	slices.SortFunc(c.list, func(a, b *dentry) int { return strings.Compare(a.name, b.name) })
}
