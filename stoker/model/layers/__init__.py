"""The parts of a layer, a file each: what a spec of `spec/` becomes."""
