"""The prefix cache alone, without time: hit-ratio curves of eviction policies over a trace."""
