"""Adapters: which numbers a run trains, one file each; a new file is found by the command line without an edit."""
