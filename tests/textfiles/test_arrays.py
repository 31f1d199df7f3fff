import numpy as np
import pytest

from textfiles.arrays import read_array, read_arrays, write_array, write_arrays


@pytest.mark.parametrize(
    ("write", "read", "name", "content"),
    [
        (write_array, read_array, "one.npy", np.arange(6.0).reshape(2, 3)),
        (write_arrays, read_arrays, "some.npz", {"a": np.arange(3), "b": np.ones(2, dtype=np.float16)}),
    ],
)
def test_arrays_come_back_and_a_file_cut_short_is_named(tmp_path, write, read, name, content):
    write(tmp_path / name, content)
    np.testing.assert_equal(read(tmp_path / name, "Make it again."), content)
    whole = (tmp_path / name).read_bytes()
    for kept in (len(whole) - 8, 0):
        (tmp_path / name).write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"{name} is damaged \(.*\)\. Make it again\."):
            read(tmp_path / name, "Make it again.")


def test_objects_are_not_pickled(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_array(tmp_path / "objects.npy", np.array([{}], dtype=object))
    assert list(tmp_path.iterdir()) == []
