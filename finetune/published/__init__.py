"""Published checkpoints: what each family's tensors are in our parameters, both ways, without PyTorch."""
