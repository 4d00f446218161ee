"""The tasks that a run can be fine-tuned for, one file each; a new file is found by the command line without an edit."""
