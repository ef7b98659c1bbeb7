"""Attention over paged KV: one file for each backend."""
