"""Model architectures: one readable file each, on shared layers."""
