"""The worlds that a workload is replayed in, one file each."""
