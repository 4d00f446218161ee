"""What computes: Flax Linen modules that know logical axis names, never a mesh, a loss or a file."""
