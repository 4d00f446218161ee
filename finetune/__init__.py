"""The hand-off: restore a run, put an adapter and a task on it, and go through train's loop. It has no loop
of its own.
"""
