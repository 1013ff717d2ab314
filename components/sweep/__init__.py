"""Search over how to train: trials, their measure on the validation subjects, the best of them."""
