"""Cost models: how many seconds a step of the engine takes, from what is in its batch."""
