"""Populations as compiled kernels, written from the one integer step of their neuron."""
