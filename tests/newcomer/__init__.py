"""What a newcomer writes: one objective and one experiment, in two files that nothing else knows of."""
