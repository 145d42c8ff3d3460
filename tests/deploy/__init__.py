"""The files that an IT department takes: checked by their own tools, and run as far as a machine allows."""
