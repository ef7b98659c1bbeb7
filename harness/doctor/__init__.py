"""What may be wrong with this machine before anything is run on it: one small function for each check."""
