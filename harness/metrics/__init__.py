"""One schema of tables and one summary for every backend."""
