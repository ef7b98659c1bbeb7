"""Workloads: reading, generating, transforming and describing request traces."""
