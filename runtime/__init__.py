"""The server: scheduler core, processes, engine, models and kernels."""
