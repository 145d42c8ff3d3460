"""The aggregator: a durable modular adder behind HTTP. It holds no key and loads no HE library."""
