"""A cache of encoded images in memory."""

from dynet_jax.data.contents import contents_of
from dynet_jax.data.record import Record, Source


class CachedSource:
    """A source that reads each record once. Images that are arrays in memory anyway are not stored a second time.

    Threads may share it: two that request the same record at the same time may both read it, and get equal records.
    It grows with the records that this process has read; worker processes have their own caches.

    >>> from dynet_jax.data import load_source
    >>> digits = load_source("digits", "train")
    >>> CachedSource(digits)[3].name
    'digits/train/3'
    """

    def __init__(self, source: Source):
        self._source, self._records = source, {}
        self.class_names, self.contents = source.class_names, contents_of(source)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._records.get(index)
        if record is None:
            record = self._source[index]
            if isinstance(record.image, bytes):
                self._records[index] = record
        return record

    def name_of(self, index: int) -> str:
        return self._source.name_of(index)

    def __reduce__(self):
        return CachedSource, (self._source,)
