"""What people look at: the console block, plots and comparisons."""
