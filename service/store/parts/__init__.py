"""Keep parts of submissions and sums durably, behind one contract."""
