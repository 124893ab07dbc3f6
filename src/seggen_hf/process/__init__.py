"""What a process does beside its work: stop when it is told to, try again, keep quiet."""
