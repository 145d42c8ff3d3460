"""Run the compiled loops: packing of residues, their sum, rows of the MAC. No secret is interpreted in here."""
