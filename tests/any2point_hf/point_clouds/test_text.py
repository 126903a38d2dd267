"""Columns of text files: which they are, what parts them, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud

CLOUD = [[0.5, 2.0, 3.25], [-4.0, 5.5, 6.0], [7.0, 8.0, -9.125]]
# Each holds CLOUD.
TEXTS = {
    "id.csv": "id,x,y,z\n7,0.5,2,3.25\n8,-4,5.5,6\n9,7,8,-9.125\n",
    "pandas.csv": ",x,y,z\n0,0.5,2,3.25\n1,-4,5.5,6\n2,7,8,-9.125\n",
    "pandas_numbers.csv": "0,1,2\n0.5,2.0,3.25\n-4.0,5.5,6.0\n7.0,8.0,-9.125\n",
    "pandas_index_and_numbers.csv": ",0,1,2\n0,0.5,2.0,3.25\n1,-4.0,5.5,6.0\n2,7.0,8.0,-9.125\n",
    "quotes.csv": '"label","x","y","z"\n"night, stand","0.5","2","3.25"\n"a","-4","5.5","6"\n"a","7","8","-9.125"\n',
    "time_first.txt": "# t X Y Z\n100 0.5 2 3.25\n101 -4 5.5 6\n102 7 8 -9.125\n",
    "viewer.asc": "//X,Y,Z,R,G,B\n0.5,2,3.25,1,2,3\n-4,5.5,6,1,2,3\n7,8,-9.125,1,2,3\n",
    "comment_of_another_width.txt": "# x y z of a chair\n0.5 2 3.25\n-4 5.5 6\n7 8 -9.125\n",
    "title.txt": "# scanned on Monday\nz\ty\tx\n3.25\t2\t0.5\n6\t5.5\t-4\n-9.125\t8\t7\n",
    "names_with_spaces.txt": "Point ID\tX [m]\tY [m]\tZ [m]\n1\t0.5\t2\t3.25\n2\t-4\t5.5\t6\n3\t7\t8\t-9.125\n",
    "prefixes.csv": "nx,ny,nz,pos_x,pos_y,pos_z\n0,0,1,0.5,2,3.25\n0,0,1,-4,5.5,6\n0,0,1,7,8,-9.125\n",
    "count.pts": "3\n0.5 2 3.25 -1200 8 8 8\n-4 5.5 6 -1200 8 8 8\n7 8 -9.125 -1200 8 8 8\n",
    "semicolons.csv": "x;y;z\n0,5;2;3,25\n-4;5,5;6\n7;8;-9,125\n",
    "decimal_commas.xyz": "0,5 2 3,25\n-4 5,5 6\n7 8 -9,125\n",
    "integers_first.csv": "x;y;z;a\n0,5;2;3,25;1\n-4;5,5;6;1\n7;8;-9,125;1\n",
    "tab_index.tsv.txt": "\tx\ty\tz\n0\t0.5\t2\t3.25\n1\t-4\t5.5\t6\n2\t7\t8\t-9.125\n",
    "labels_with_spaces.txt": "Name\tX\tY\tZ\nP 1\t0.5\t2\t3.25\nP 2\t-4\t5.5\t6\nP\t7\t8\t-9.125\n",
    "empty_last.csv": "x,y,z,label\n0.5,2,3.25,a\n-4,5.5,6,\n7,8,-9.125,b\n",
    "trailing.csv": "x,y,z,\n0.5,2,3.25,\n-4,5.5,6,\n7,8,-9.125,\n;;;\n\x1a",
    "words_last.txt": "x y z label\n0,5 2 3,25 tree\n-4 5,5 6 tree\n7 8 -9,125 tree\n",
    "german_quotes.csv": 'x,y,z\n"0,5","2","3,25"\n"-4","5,5","6"\n"7","8","-9,125"\n',
    "spaced_commas.csv": "x ,y ,z\n0.5 ,2 ,3.25\n-4 ,5.5 ,6\n7 ,8 ,-9.125\n",
    "excel.csv": "sep=;\nx;y;z\n0.5;2;3.25\n-4;5.5;6\n7;8;-9.125\n",
    "r.txt": '"x" "y" "z"\n"1" 0.5 2 3.25\n"2" -4 5.5 6\n"3" 7 8 -9.125\n',
    "pandas_spaces.txt": " x y z\n0 0.5 2 3.25\n1 -4 5.5 6\n2 7 8 -9.125\n",
    "pandas_label.csv": "0,1,2,label\n0.5,2,3.25,a\n-4.0,5.5,6,a\n7,8,-9.125,b\n",
    "pandas_tabs.txt": "0\t1\t2\n0.5\t2\t3.25\n-4\t5.5\t6\n7\t8\t-9.125\n",
    "units.txt": "X [m] Y [m] Z [m]\n0.5 2 3.25\n-4 5.5 6\n7 8 -9.125\n",
    "dashes.csv": "id,X-Coordinate,Y-Coordinate,Z-Coordinate\n1,0.5,2,3.25\n2,-4,5.5,6\n3,7,8,-9.125\n",
    "prefixed_comment.txt": "# columns: id z y x\n1 3.25 2 0.5\n1 6 5.5 -4\n1 -9.125 8 7\n",
    "units_in_comment.txt": "# id x [m] y [m] z [m]\n1 0.5 2 3.25\n1 -4 5.5 6\n1 7 8 -9.125\n",
    "second_comment.txt": "# x y z in metres\n# id x y z\n1 0.5 2 3.25\n1 -4 5.5 6\n1 7 8 -9.125\n",
    "comment_below_count.pts": "3\n//ID X Y Z\n1 0.5 2 3.25\n2 -4 5.5 6\n3 7 8 -9.125\n",
    "matlab.txt": "% z y x\n3.25 2 0.5\n6 5.5 -4\n-9.125 8 7\n",
    "normals.xyzn": "0.5 2 3.25 0 0 1\n-4 5.5 6 0 0 1\n7 8 -9.125 0 0 1\n",
    "colours.xyzrgb": "0.5 2 3.25 .1 .2 .3\n-4 5.5 6 .1 .2 .3\n7 8 -9.125 .1 .2 .3\n",
}
BAD = {
    "other_names.csv": ("a,b,c\n1,2,3\n", "its header must name one column each x, y and z; it names a, b, c. Rename"),
    "no_z.csv": ("x,y,label\n1,2,3\n", "it names x, y, label"),
    "two_of_them.csv": ("x,y,z,x\n1,2,3,4\n", "one column each"),
    "narrow_header.csv": (
        "x,y,z\n1,2,3,4\n",
        r"names 3 columns \(x, y, z\), the first line of numbers has 4",
    ),
    "cut_off.pts": ("3\n1 2 3\n4 5 6\n", "its first line counts 3 points, 2 lines follow, fewer: it is cut off"),
    "more.pts": ("1\n1 2 3\n4 5 6\n", "its first line counts 1 points, 2 lines follow, more"),
    "comment.txt": (
        "# id x y z rgb\n1 .1 .2 .3 255 0 0\n",
        "a comment must name all 7 columns .* got '# id x y z rgb'",
    ),
    "commas.txt": ("1,5, 2,5, 3,5\n", "its commas part columns and decimals alike"),
    "ragged.csv": ("x,y,z,w\n1,2,3,4\n\n5,6,7\n", "line 4: it has 3 columns, the first line of numbers has 4"),
    "word.csv": ("x,y,z\n1,2,3\n4,five,6\n", "line 3: 'five' is no number"),
    "many_names.csv": (",".join(f"column{i}" for i in range(500)) + "\n" + ",".join(["1"] * 500), "column11, …"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_columns_are_found(tmp_path, name):
    (tmp_path / name).write_text(TEXTS[name])
    assert read_point_cloud(tmp_path / name).tolist() == CLOUD


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends(tmp_path, encoding, line_end):
    (tmp_path / "a.csv").write_bytes(TEXTS["id.csv"].replace("\n", line_end).encode(encoding))
    assert read_point_cloud(tmp_path / "a.csv").tolist() == CLOUD


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(tmp_path, name):
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(PointCloudError, match=message) as error:
        read_point_cloud(tmp_path / name)
    assert len(str(error.value)) - len(str(tmp_path)) < 500


def test_a_point_of_whole_numbers_in_a_row_is_no_header(tmp_path):
    (tmp_path / "a.csv").write_text("0,1,2\n3,4,5\n")
    assert read_point_cloud(tmp_path / "a.csv").tolist() == [[0, 1, 2], [3, 4, 5]]


@settings(max_examples=100, deadline=None)
@given(
    order=st.permutations(["x", "y", "z", "id", "red", "label"]),
    delimiter=st.sampled_from([" ", ",", ";", "\t", ", "]),
    comma=st.booleans(),
    comment=st.sampled_from(["", "# ", "//", "#"]),
)
def test_any_order_and_delimiter(tmp_path_factory, order, delimiter, comma, comment):
    comma = comma and "," not in delimiter
    values = {"id": "7", "red": "255", "label": "3"}
    lines = [comment + delimiter.join(order)]
    for point in CLOUD:
        row = {**values, **{axis: repr(value) for axis, value in zip("xyz", point, strict=True)}}
        lines.append(delimiter.join(row[name] for name in order).replace(".", "," if comma else "."))
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("\n".join(lines))
    np.testing.assert_array_equal(read_point_cloud(path), np.array(CLOUD, np.float32))


@pytest.mark.parametrize(
    "text",
    [
        "x y z\n[m] [m] [m]\n1 2 3\n4 5 6\n",
        "x,y,z\n[m],[m],[m]\n1,2,3\n4,5,6\n",
        "x;y;z\nm;m;m\n1;2;3\n4;5;6\n",
        "x;y;z\n(m);(m);(m)\n1,0;2,0;3,0\n4,0;5,0;6,0\n",
        "Z [up]\tY\tX\nmm\tmm\tmm\n3\t2\t1\n6\t5\t4\n",
        '"x","y","z","class"\n"m","m","m","-"\n1,2,3,a\n4,5,6,b\n',
        "x y z t\n[metres] [metres] [metres] [s]\n1 2 3 0\n4 5 6 1\n",
        "2\nx y z\nm m m\n1 2 3\n4 5 6\n",
    ],
)
def test_units_below_the_names(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert read_point_cloud(tmp_path / "a.txt").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_points_are_never_taken_for_units(tmp_path):
    (tmp_path / "a.txt").write_text("x y z\nnan nan nan\n1 2 3\n")
    with pytest.raises(PointCloudError, match="must be finite: 1 of 2 points"):
        read_point_cloud(tmp_path / "a.txt")
    (tmp_path / "c.csv").write_text('x,y,z\n"nan","nan","nan"\n"1","2","3"\n')
    with pytest.raises(PointCloudError, match="must be finite: 1 of 2 points"):
        read_point_cloud(tmp_path / "c.csv")
    (tmp_path / "d.txt").write_text("x y z\nNA NA NA\n1 2 3\n")
    with pytest.raises(PointCloudError, match="must be finite: 1 of 2 points"):
        read_point_cloud(tmp_path / "d.txt")
    (tmp_path / "b.txt").write_text("x y z\n1,5 2,5 3,5\n1 2 3\n")
    assert read_point_cloud(tmp_path / "b.txt").tolist() == [[1.5, 2.5, 3.5], [1, 2, 3]]


def test_several_scans_in_a_file_each_with_its_count(tmp_path):
    (tmp_path / "a.pts").write_text("2\n1 2 3 0\n4 5 6 0\n\n1\n7 8 9 0\n3\n1 1 1 0\n2 2 2 0\n3 3 3 0\n")
    expected = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert read_point_cloud(tmp_path / "a.pts").tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\n1 2 3\n4 5 6\n2\n7 8 9\n", "line 4 counts 2 points, 1 lines follow, fewer: it is cut off"),
        ("2\n1 2 3\n4 5 6\n1\n7 8 9\n1 1 1\n", "line 4 counts 1 points, 2 lines follow, more"),
        ("1\n1 2 3\n4 5 6\n1\n7 8 9\n", "its first line counts 1 points, 4 lines follow, more"),
        ("2\n1 2 3\n4 5 6\n99999999999\n7 8 9\n", "line 4 counts 99999999999 points, 1 lines follow, fewer"),
        ("2\n1 2 3\n4 5 6\n1\n7 8\n", "line 5: it has 2 columns, the first line of numbers has 3"),
    ],
)
def test_counts_of_scans_are_checked(tmp_path, text, message):
    (tmp_path / "a.pts").write_text(text)
    with pytest.raises(PointCloudError, match=message):
        read_point_cloud(tmp_path / "a.pts")


@pytest.mark.parametrize(
    "text", ["id,x,y,z\n0,1,2,3\n1,,,\n2,4,5,6\n", "x;y;z\n1;2;3\nNA;NA;NA\n4;5;6\n", "x y z\n1 2 3\nNULL 1 2\n4 5 6\n"]
)
def test_cells_without_a_number_are_points_without_a_place(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(PointCloudError, match=r"1 of 3 points have a coordinate that is NaN.*--drop-invalid"):
        read_point_cloud(tmp_path / "a.csv")
    with pytest.warns(UserWarning, match="1 of 3 points are dropped"):
        assert read_point_cloud(tmp_path / "a.csv", drop_invalid=True).tolist() == [[1, 2, 3], [4, 5, 6]]
