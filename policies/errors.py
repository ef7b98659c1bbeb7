"""What a user may get wrong about policies."""


class PolicyError(ValueError):
    """A policy that cannot be found or built; the message names the knob and the way out."""
