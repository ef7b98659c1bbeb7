"""What a user may get wrong about a replay of the cache alone."""


class CacheError(ValueError):
    """A replay that cannot be; the message names the knob, its value and the way out."""
