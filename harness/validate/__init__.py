"""The simulator held against the real server: errors, and where they come from."""
