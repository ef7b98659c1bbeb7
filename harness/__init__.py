"""The experiment: command line, backends, simulator, cost models, metrics and reports."""
