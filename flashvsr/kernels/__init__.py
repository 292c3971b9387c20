"""Triton and Gluon sources with their launches, and the convolutions of the tiny decoders."""
