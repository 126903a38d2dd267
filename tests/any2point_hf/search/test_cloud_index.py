import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.search.cloud_index import CloudIndex


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50))
def test_as_by_sorting_all_cosines(seed, size, top):
    generator = np.random.default_rng(seed)
    vectors, queries = generator.normal(size=(size, 4)), generator.normal(size=(2, 4))
    names = [f"cloud {row}" for row in range(size)]
    for query, hits in zip(queries, CloudIndex(vectors, names).search(queries, top), strict=True):
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        order = np.argsort(-cosines)[:top]
        assert [hit.id for hit in hits] == [names[row] for row in order]
        np.testing.assert_allclose([hit.similarity for hit in hits], cosines[order], atol=1e-6)


def test_of_equal_clouds_the_first_ones_are_found_and_lengths_do_not_matter():
    vectors = np.array([[0, 1], [2, 0], [5, 0], [1, 0]])  # exact in float32 after scaling
    hits = CloudIndex(vectors, list("abcd"), ["x", None, "y", "z"]).search(np.array([[3.0, 0.0]]), top=2)[0]
    assert [(hit.row, hit.id, hit.label, hit.similarity) for hit in hits] == [(1, "b", None, 1.0), (2, "c", "y", 1.0)]


def test_queries_of_another_width():
    with pytest.raises(Any2PointError, match=r"queries must be \[q, 3\] as the index has it, got \[1, 4\]"):
        CloudIndex(np.eye(3), list("abc")).search(np.ones((1, 4)))


def test_no_index(tmp_path):
    with pytest.raises(Any2PointError, match=r"there is no .*nothing\.index"):
        CloudIndex.load(tmp_path / "nothing.index")
    (tmp_path / "text.index").write_text("hello")
    with pytest.raises(Any2PointError, match=r"is no output of such a run\. Make one with `any2point index`"):
        CloudIndex.load(tmp_path / "text.index")
