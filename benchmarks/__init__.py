"""The numbers: what a hand-off gains, how fast a step is, and how both compare with peers."""
