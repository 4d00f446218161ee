"""What is read: text, tokenizers, packing and the stream of batches. NumPy on the host: no jax, no other room."""
