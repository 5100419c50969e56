"""The folder of small sources that the tests of the data way read."""

import pytest
from small_data import make_record

from data_pipelines.records import Record
from data_pipelines.sources.array_record import write_shards


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A folder with the sources `pictures` (40 records) and `texts` (10)."""
    root = tmp_path_factory.mktemp("data")
    write_shards(root / "pictures", map(make_record, range(40)), records_per_shard=16)
    texts = (Record(key=f"t{n}", text=f"text {n} " * (1 + n % 3)) for n in range(10))
    write_shards(root / "texts", texts)
    return root
