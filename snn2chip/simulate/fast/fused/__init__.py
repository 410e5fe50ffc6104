"""Populations that look up what binary spikes add up to, in one kernel with their synapses."""
