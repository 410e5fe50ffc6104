"""Writers: ``.nir``, ``.net``, a runnable Lava project."""
