"""One file an implementation of an operation; ``reference`` defines what correct is."""
