"""The ways to compute a synapse exactly, and the choice among them."""
