"""Side-by-side measurements and pictures that the documentation quotes; each is a command a user can run."""
