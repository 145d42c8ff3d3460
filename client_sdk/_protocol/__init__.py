"""Speak the protocol as generators without input or output, driven alike by the blocking and the asyncio loop."""
