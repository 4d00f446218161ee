"""The one loop: step, launchers, optimizer, checkpoint, metrics."""
