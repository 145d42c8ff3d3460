"""The pure core: tensors to exact integers, integers to residues, residues to sums. No network, no clock, no files."""
