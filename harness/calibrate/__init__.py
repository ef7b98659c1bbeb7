"""Measuring the runtime's engine and host stages on this machine, into a profile that ``cost=profile`` uses."""
