"""Readers: everything that becomes a Graph or a Program."""
