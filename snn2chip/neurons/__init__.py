"""Neuron models: one file each, equations once, float step, integer step, operation counts."""
