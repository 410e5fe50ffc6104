"""The intermediate representation: layers, the float Graph, the integer Program."""
