"""Many runs of train.py with different values of some keys."""
