"""Layers that models are made of, tensor parallel by construction (Megatron-LM, arXiv 1909.08053)."""
