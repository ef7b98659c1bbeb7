"""Replaying a workload in wall-clock time, through a server that is really there."""
