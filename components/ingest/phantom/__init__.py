"""The phantom: synthetic heads with known anatomy and lesions, the dataset that comes with the project."""

from components.ingest.phantom.heads import STRUCTURES, PhantomConfig, SlicePair, subject_volume, write_phantom

__all__ = ["STRUCTURES", "PhantomConfig", "SlicePair", "subject_volume", "write_phantom"]
