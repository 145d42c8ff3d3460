"""Touch disk and terminal: the only room of the core that does."""
