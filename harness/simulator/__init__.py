"""The server's simulated twin: a SimPy process where something is decided, a FIFO server for each other process."""
