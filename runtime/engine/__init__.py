"""What runs a step: memory, inputs, forward pass, sampling. Importing this package does not import torch."""
