"""Intel Lava as an oracle: its model code in this process, its real runtime in a subprocess."""
