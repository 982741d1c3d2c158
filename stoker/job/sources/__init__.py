"""What goes into a job: formats told by content and extension, all of them streamed."""

from stoker.job.sources.base import Source, require_apart, require_rows
from stoker.job.sources.detect import FORMATS, open_source
from stoker.job.sources.part import Part, Shard
from stoker.job.sources.table import parse_delimiter

__all__ = [
    "FORMATS",
    "Part",
    "Shard",
    "Source",
    "open_source",
    "parse_delimiter",
    "require_apart",
    "require_rows",
]
