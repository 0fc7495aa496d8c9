"""What is in the way of a checkpoint, or of its restore: the functions of kept.py's rows, by what they look at."""
