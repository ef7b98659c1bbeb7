"""The server's processes: API server, tokenizers, workers, detokenizer, and the launcher that watches them."""
