import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.errors import Any2PointError, MissingPackageError
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


def clustered(size, generator):
    """Unit vectors as features are: in groups, with a few directions each differs in."""
    centers = np.random.default_rng(0).normal(size=(10, 8)) * 1.5
    places = centers[generator.integers(10, size=size)] + generator.normal(size=(size, 8))
    return (places @ np.random.default_rng(1).normal(size=(8, 64))).astype(np.float32)


def test_approximate_search_finds_nearly_what_exact_search_finds():
    pytest.importorskip("faiss", reason="approximate search needs the extra search")
    vectors = clustered(10_000, np.random.default_rng(2))
    vectors[5000] = vectors[17]  # of equals, the first one in the index
    queries = np.concatenate([clustered(100, np.random.default_rng(3)), vectors[17:18]])
    index = CloudIndex(vectors, [str(row) for row in range(len(vectors))])
    exact, approximate = index.search(queries), index.search(queries, approximate=True)
    shares = [len(set(left) & set(right)) / 10 for left, right in zip(_ids(exact), _ids(approximate), strict=True)]
    assert np.mean(shares) > 0.95
    assert [hits[0].row for hits in approximate].count(17) == 1
    assert [hit.row for hit in approximate[-1][:2]] == [17, 5000]
    unit = index.vectors
    for query, hits in zip(queries, approximate, strict=True):
        similarities = [hit.similarity for hit in hits]
        assert similarities == sorted(similarities, reverse=True)
        cosines = unit[[hit.row for hit in hits]] @ query / np.linalg.norm(query)
        np.testing.assert_allclose(similarities, cosines, rtol=0, atol=1e-5)
    alone = CloudIndex(vectors, index.ids).search(queries[7:8], approximate=True)
    assert alone == approximate[7:8]  # whatever else is asked, and the same each time


def _ids(found):
    return [[hit.id for hit in hits] for hits in found]


@pytest.mark.parametrize("size", [1, 2, 30])
def test_approximate_search_of_few_clouds(size):
    pytest.importorskip("faiss", reason="approximate search needs the extra search")
    vectors = np.random.default_rng(0).normal(size=(size, 4))
    (hits,) = CloudIndex(vectors, [str(row) for row in range(size)]).search(vectors[:1], approximate=True)
    assert len(hits) == min(size, 10)  # also where the lists that were searched hold fewer
    assert hits[0].row == 0
    assert len({hit.row for hit in hits}) == len(hits)


def test_an_empty_index_has_no_hits():
    assert CloudIndex(np.zeros((0, 4)), []).search(np.ones((1, 4)), approximate=True) == [[]]


def test_approximate_search_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackageError, match=r'needs faiss, which .*: pip install "any2point-hf\[search\]"'):
        CloudIndex(np.eye(3), list("abc")).search(np.eye(3), approximate=True)
