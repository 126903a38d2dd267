import pytest

from any2point_hf.modeling.configuration_any2point import Any2PointConfig
from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.paper.rows import CONTROLS, fit_row, with_controls
from any2point_hf.paper.tables import TABLES, find_table
from any2point_hf.paper.tuning_baselines import METHODS


@pytest.mark.parametrize(
    ("table", "row", "heading", "figure"),
    [  # typed from the paper, not from the code
        (1, 0, "MN.", 92.7),
        (1, 2, "SCAN.", 91.9),
        (2, 0, "1D", 79.9),
        (2, 1, "2D", 86.4),
        (2, 3, "1D", 86.3),
        (3, 1, "2D", 86.6),
        (3, 2, "1D", 90.9),
        (4, 1, "2D", 86.0),
        (4, 2, "1D", 90.5),
        (5, 1, "1D", 90.2),
        (5, 1, "2D", 86.8),
        (6, 2, "SCAN.", 89.7),
        (7, 2, "1D", 90.2),
        (7, 5, "1D", 91.1),
        (7, 11, "2D", 87.1),
        (8, 2, "2D", 87.2),
        (8, 3, "2D", 86.4),
        (8, 8, "1D", 89.8),
        (9, 2, "2D", 86.4),
        (9, 3, "2D", 87.0),
        (9, 11, "1D", 91.1),
        (10, 0, "2D", 86.2),
        (10, 2, "1D", 87.4),
    ],
)
def test_figures_of_the_paper(table, row, heading, figure):
    assert TABLES[table].rows[row].accuracy[heading] == figure


@pytest.mark.parametrize(
    ("table", "parameters"),
    [(1, [0.8, 0.8, 0.9]), (2, [86.3, 0.4, 0.4, 0.9, 0.8]), (3, [0.3, 0.3, 0.8, 0.8]), (5, [0.25, 0.8, 0.8])],
)
def test_parameters_of_the_paper(table, parameters):
    assert [row.parameters for row in TABLES[table].rows] == parameters


def test_every_row_is_whole():
    assert {number: len(table.rows) for number, table in TABLES.items()} == {
        **{1: 3, 2: 5, 3: 4, 4: 4, 5: 3},
        **{6: 3, 7: 12, 8: 9, 9: 12, 10: 4},
    }
    for table in TABLES.values():
        for row in table.rows:
            assert len(row.cells) == len(table.columns)
            assert set(row.accuracy) <= set(table.figures)
            assert row.accuracy
            assert row.method in METHODS
            Any2PointConfig(**row.fields)  # names and values that there are


@pytest.mark.parametrize("table", [2, 3, 4, 5, 7, 8, 10])
def test_one_row_of_a_table_is_the_method_itself(table):
    best = [
        row
        for row in TABLES[table].rows
        if Any2PointConfig(**fit_row(row.fields, "1d", 12, 2)).to_dict() == Any2PointConfig().to_dict()
        and row.method == "any2point"
        and row.accuracy.get("1D", 91.9) == 91.9
    ]
    assert {heading: row.accuracy[heading] for row in best for heading in row.accuracy} == {"1D": 91.9, "2D": 87.7}


def test_what_a_column_compares_with():
    first, ablation = TABLES[1], TABLES[3]
    assert first.modalities() == ["audio", "2d", "1d"]
    assert first.trained_for(first.rows[2], on_scans=True) == {"SCAN.": "1d"}
    assert first.trained_for(first.rows[2], on_scans=False) == {"MN.": "1d"}
    assert TABLES[6].trained_for(TABLES[6].rows[0], on_scans=False) == {"SCAN.": "audio"}
    assert ablation.modalities() == ["1d", "2d"]
    assert ablation.trained_for(ablation.rows[0], on_scans=False) == {"1D": "1d", "2D": "2d"}
    assert TABLES[9].trained_for(TABLES[9].rows[0], on_scans=True) == {"2D": "2d"}


@pytest.mark.parametrize(
    ("fields", "modality", "expected"),
    [
        ({"adapter_blocks": 3}, "1d", 2),
        ({"adapter_blocks": 6}, "1d", 3),
        ({"adapter_blocks": 9}, "2d", 5),
        ({"adapter_blocks": 12}, "1d", None),
        ({"adapter_blocks": 0}, "1d", 0),
        ({"cell_size": 16}, "2d", 1.2308),
        ({"cell_size": 26}, "2d", 2),
        ({"cell_size": 3}, "1d", 3),
        ({"num_views": 8}, "2d", 8),
    ],
)
def test_rows_on_a_backbone_of_six_blocks_and_cells_of_two(fields, modality, expected):
    assert fit_row(fields, modality, num_blocks=6, cell_size=2) == dict.fromkeys(fields, expected)


def test_rows_on_a_published_backbone_are_the_papers():
    for number in (7, 9):
        for row in TABLES[number].rows:
            fitted = fit_row(row.fields, "2d", num_blocks=12, cell_size=26)
            expected = row.fields | ({"adapter_blocks": None} if row.fields.get("adapter_blocks") == 12 else {})
            assert fitted == expected


@pytest.mark.parametrize("number", TABLES)
def test_controls_stand_below_the_papers_rows(number):
    table, paper = find_table(number), TABLES[number]
    kinds = ["audio", "2d", "1d"] if number in (1, 6) else [None]
    assert table.rows[: len(paper.rows)] == paper.rows
    controls = table.rows[len(paper.rows) :]
    assert [(row.cells[0], row.modality) for row in controls] == [(c[0], kind) for c in CONTROLS for kind in kinds]
    assert [row.weights for row in controls] == [w for w in ("pretrained", "permuted", "random") for _ in kinds]
    assert table.modalities() == paper.modalities()
    for row in controls:
        assert len(row.cells) == len(table.columns)
        assert (row.accuracy, row.parameters, row.method) == ({}, None, "any2point")
        assert dict(row.fields) == ({} if row.weights != "pretrained" else {"backbone_blocks": 0, "adapter_blocks": 0})
        Any2PointConfig(**row.fields)


def test_controls_are_trained_for_every_column():
    scans, cad = (find_table(1).trained_for(find_table(1).rows[4], on_scans) for on_scans in (True, False))
    assert (scans, cad) == ({"SCAN.": "2d"}, {"MN.": "2d"})
    assert find_table(6).rows[5].cells == ("No backbone", "Language", "RoBERTa")
    assert find_table(6).trained_for(find_table(6).rows[5], on_scans=False) == {"SCAN.": "1d"}
    for number in (2, 9):  # also where each row of the paper is of one kind alone
        table = find_table(number)
        assert table.trained_for(table.rows[-1], on_scans=True) == {"1D": "1d", "2D": "2d"}
    assert with_controls(TABLES[7]).rows[-1].cells == ("Random weights", "", "", "")


def test_a_table_that_there_is_not():
    with pytest.raises(Any2PointError, match=r"--table must be one of 1, 2, .*10, got 11"):
        find_table(11)
