"""What is read: text, tokenizers, packing and the stream of batches. No jax; knows no other room."""
