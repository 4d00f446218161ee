"""What is read: text, tokenizers, packing and the stream of batches. NumPy only; knows no other room."""
