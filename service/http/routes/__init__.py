"""The endpoints, thin: they read heads and bodies, call what decides, and shape the answer. See PROTOCOL.md."""
