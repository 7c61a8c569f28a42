"""splite-deploy: compacted pose networks on edge devices, every conversion proved in pixels and millimetres."""

__version__ = "0.1.0"
