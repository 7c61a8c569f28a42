"""The developer's machine: dense checkpoint to compacted checkpoint. Imports torch."""

from splite_deploy.compact.pipeline import compact_checkpoint, save_compacted
from splite_deploy.compact.prune import Compaction, CompactOptions, LayerRow, compact
from splite_deploy.export.source.header import compacted_metadata

__all__ = [
    "CompactOptions",
    "Compaction",
    "LayerRow",
    "compact",
    "compact_checkpoint",
    "compacted_metadata",
    "save_compacted",
]
