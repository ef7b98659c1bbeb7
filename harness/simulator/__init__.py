"""The server's simulated twin: one SimPy process for each process of the real server."""
