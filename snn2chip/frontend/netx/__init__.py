"""NetX files: networks of Intel's lava-dl."""

from snn2chip.frontend.netx.read import read_net

__all__ = ["read_net"]
